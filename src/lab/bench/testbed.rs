//! Who takes part: the systems, and the labs they are in.

use std::time::Duration;

use super::matrix::Setting;
use crate::lab::host::netns::Netns;
use crate::lab::host::process::Process;
use crate::lab::host::wait::wait_for;
use crate::lab::network::backend::Backend;
use crate::lab::network::daemon::Daemon;
use crate::lab::network::datapath;
use crate::lab::network::datapath::{Datapath, OFFLOAD_OFF};
use crate::lab::network::node::READY;
use crate::lab::network::pods::Pod;
use crate::lab::traffic::flood;
use crate::lab::traffic::measure;
use crate::lab::{Lab, LabError, LabSpec};

/// A daemon that takes part, under a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Its name in the report.
    pub name: String,
    /// What runs on both nodes.
    pub daemon: Daemon,
}

/// A daemon with the backend that it runs: needs a lab of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Participant {
    /// Its name in the report.
    pub(super) name: String,
    pub(super) daemon: Daemon,
    pub(super) backend: Backend,
}

/// A way from pod to pod that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct System {
    /// Its name in the report.
    pub(super) name: String,
    /// Number of the lab it is in.
    lab: usize,
    datapath: Datapath,
}

/// The systems of one setting, all up.
#[derive(Debug)]
pub(super) struct Testbed {
    pub(super) systems: Vec<System>,
    labs: Vec<Lab>,
}

/// A system that is ready to be measured.
#[derive(Debug)]
pub(super) struct Ends<'lab> {
    pub(super) client: &'lab Pod,
    pub(super) server: &'lab Pod,
    /// Where the devices are that packets pass.
    pub(super) netns: Vec<Netns>,
    /// The daemons that carry its packets; the kernel's own ways have none.
    pub(super) pids: Vec<u32>,
    /// MTU of the pods, in bytes.
    pub(super) pod_mtu: u16,
}

/// Names of the systems that no daemon makes.
pub(super) const RAW: &str = "raw";
pub(super) const VXLAN: &str = "vxlan";
/// twill's name comes before that of its backend.
pub(super) const TWILL: &str = "twill";
pub(super) const TWILL_UDP: &str = "twill udp";
/// twill's udp backend as stock moves packets.
pub(super) const OFF: &str = "off";
/// twill's udp backend whose workers carry everything.
pub(super) const WORKERS: &str = "workers";
const FAST_PATH_OFF: &str = "--fast-path=off";

/// What making one lab should take, for the time left.
pub(super) const LAB_TIME: Duration = Duration::from_millis(2500);

/// twill with each backend, its udp backend also without the kernel's help and as stock moves packets,
/// then the others with each backend. The emulator of a stock node has udp only.
pub(super) fn participants(
    twill: &Daemon,
    others: &[Contender],
    backends: &[Backend],
) -> Vec<Participant> {
    let of = |name: &str, daemon: &Daemon, backend: Backend| Participant {
        name: format!("{name} {backend}"),
        daemon: daemon.clone(),
        backend,
    };
    let mut all: Vec<Participant> =
        backends.iter().map(|backend| of(TWILL, twill, *backend)).collect();
    if backends.contains(&Backend::Udp) {
        for (name, flags) in [(WORKERS, FAST_PATH_OFF), (OFF, OFFLOAD_OFF)] {
            let (name, daemon) = (name.to_owned(), twill.clone().with(flags));
            all.push(Participant { name, daemon, backend: Backend::Udp });
        }
    }
    for Contender { name, daemon } in others {
        let can = |backend: &&Backend| **backend == Backend::Udp || !daemon.is_stock_emulator();
        all.extend(backends.iter().filter(can).map(|backend| of(name, daemon, *backend)));
    }
    all
}

/// What each system is.
pub(super) fn describe(participants: &[Participant]) -> Vec<(String, String)> {
    let without_daemon = [
        (RAW, "no overlay: the nodes route the pods' subnets to each other"),
        (VXLAN, "the kernel's vxlan device, made by hand as flannel's vxlan backend does"),
    ];
    let without_daemon = without_daemon.map(|(name, what)| (name.to_owned(), what.to_owned()));
    let with_daemon = participants.iter().map(|Participant { name, daemon, backend }| {
        let what = match name.strip_prefix(TWILL) {
            Some(_) => {
                format!("twill's flanneld with the {backend} backend, as it runs by default")
            }
            None if name == OFF => format!(
                "twill's udp backend with {OFFLOAD_OFF}: one packet per system call on one \
                 thread, like stock"
            ),
            None if name == WORKERS => {
                format!("twill's udp backend with {FAST_PATH_OFF}: its workers carry everything")
            }
            None => format!(
                "{} {} with the {backend} backend",
                daemon.program.display(),
                daemon.before.join(" ")
            ),
        };
        (name.clone(), what)
    });
    without_daemon.into_iter().chain(with_daemon).collect()
}

/// Two nodes with a pod each whose links cut up floods; called `name` with a suffix of its own.
pub(super) fn lab(spec: LabSpec) -> Result<Lab, LabError> {
    let lab = Lab::up(LabSpec { num_nodes: 2, num_pods: 1, ..spec })?;
    for pod in pods(&lab)? {
        flood::cut_up(&pod.netns)?;
    }
    Ok(lab)
}

/// The client's pod and the server's.
pub(super) fn pods(lab: &Lab) -> Result<[&Pod; 2], LabError> {
    let pod = |index: usize| lab.nodes().get(index).and_then(|node| node.pods().first());
    let (Some(client), Some(server)) = (pod(0), pod(1)) else {
        return Err(LabError::TooFew { what: "nodes with a pod each", least: 2 });
    };
    Ok([client, server])
}

/// The network namespaces of the underlay, of the nodes and of their pods.
pub(super) fn netns(lab: &Lab) -> Vec<Netns> {
    let nodes = lab.nodes().iter();
    let inner = nodes.flat_map(|node| {
        std::iter::once(node.netns()).chain(node.pods().iter().map(|pod| &pod.netns)).cloned()
    });
    std::iter::once(Netns::named(lab.names().underlay())).chain(inner).collect()
}

/// The daemons of a lab.
pub(super) fn pids(lab: &Lab) -> Vec<u32> {
    lab.nodes().iter().filter_map(|node| node.process().map(Process::id)).map(|id| id.pid).collect()
}

impl Testbed {
    /// Makes the labs of all systems. The kernel's own ways share the nodes of the first.
    ///
    /// # Errors
    /// [`LabError`] of the lab that could not be made.
    pub(super) fn set_up(
        name: &str,
        setting: Setting,
        participants: &[Participant],
    ) -> Result<Self, LabError> {
        let mut labs = Vec::new();
        let kernel = [(RAW, Datapath::Raw), (VXLAN, Datapath::Vxlan)];
        let mut systems = kernel
            .map(|(name, datapath)| System { name: name.to_owned(), lab: 0, datapath })
            .to_vec();
        for (number, participant) in participants.iter().enumerate() {
            let spec = LabSpec {
                config: Some(participant.backend.config()),
                mtu: setting.mtu,
                frames_only: setting.frames_only,
                ..LabSpec::new(format!("{name}-s{number}"), participant.daemon.clone())
            };
            labs.push(lab(spec)?);
            let name = participant.name.clone();
            systems.push(System { name, lab: number, datapath: Datapath::Overlay });
        }
        if let Some(first) = labs.first() {
            datapath::prepare(first)?;
        }
        Ok(Self { systems, labs })
    }

    /// Makes `system` the way between its pods, and waits until it carries a ping.
    ///
    /// # Errors
    /// [`LabError`] when it does not.
    pub(super) fn activate(&mut self, system: usize) -> Result<Ends<'_>, LabError> {
        let System { name, lab, datapath } = &self.systems[system];
        let lab = &mut self.labs[*lab];
        let pod_mtu = datapath.activate(lab)?;
        let [client, server] = pods(lab)?;
        wait_for(&format!("{name} to carry a ping"), READY, || {
            Ok(measure::reaches(&client.netns, server.addr)?.then_some(()))
        })?;
        let pids = if *datapath == Datapath::Overlay { pids(lab) } else { Vec::new() };
        Ok(Ends { client, server, netns: netns(lab), pids, pod_mtu })
    }

    /// Removes all labs.
    ///
    /// # Errors
    /// [`LabError::Teardown`]; the labs after the one that fails are removed when dropped.
    pub(super) fn remove(self) -> Result<(), LabError> {
        self.labs.into_iter().try_for_each(Lab::remove)
    }
}
