//! The case of many leases: does a node with many peers still start, forward and follow?

mod route_watch;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::route_watch::{PATIENCE, RouteWatch};
use super::cpu::{self, CpuTime};
use super::matrix::Workload;
use super::metric::Metric;
use super::peers::{Peers, Watched, config};
use super::sample::{self, Sample};
use super::testbed;
use super::testbed::{Ends, Participant};
use crate::lab::host::wait::wait_for;
use crate::lab::network::backend::Backend;
use crate::lab::network::node::{Node, READY};
use crate::lab::report::Spread;
use crate::lab::traffic::measure;
use crate::lab::{Lab, LabError, LabSpec};

/// A lab of two nodes, and the leases of many more.
#[derive(Debug)]
pub(super) struct LeaseScale {
    /// Its name in the report.
    pub(super) name: String,
    backend: Backend,
    lab: Lab,
    peers: Peers,
    pod_mtu: u16,
}

/// Lease changes a second.
const CHURN: usize = 1000;

/// Single changes that are timed in each round.
const NUM_CHANGES: usize = 5;

/// Daemons that use less than a twentieth of a core for so long are idle.
const IDLE: Duration = Duration::from_millis(400);

impl LeaseScale {
    /// Makes the lab and writes the leases.
    ///
    /// # Errors
    /// [`LabError`] of what could not be made.
    pub(super) fn set_up(
        lab: &str,
        participant: &Participant,
        num_leases: usize,
    ) -> Result<Self, LabError> {
        let Participant { name, daemon, backend } = participant;
        let spec = LabSpec { config: Some(config(*backend)), ..LabSpec::new(lab, daemon.clone()) };
        let mut lab = testbed::lab(spec)?;
        let taken = lab.etcd().leases()?.into_iter().map(|(key, _)| key).collect();
        let peers = Peers::write(lab.etcd(), *backend, &taken, num_leases)?;
        let pod_mtu = lab.nodes()[0].overlay().map_or(0, |overlay| overlay.env.mtu);
        let name = format!("{name}, {num_leases} leases");
        Ok(Self { name, backend: *backend, lab, peers, pod_mtu })
    }

    /// MTU of the pods, in bytes.
    pub(super) const fn pod_mtu(&self) -> u16 {
        self.pod_mtu
    }

    /// Restarts the sending node, then measures it while leases stay, and while they change.
    ///
    /// # Errors
    /// [`LabError`] when it does not start or does not forward.
    pub(super) fn take(&mut self, time: Duration) -> Result<Sample, LabError> {
        let start = self.restart()?;
        self.wait_idle()?;
        let change = self.single_changes()?;
        let per_change = self.cpu_per_change(time)?;
        let mut figures = sample::take(&self.ends()?, Workload::Leases, time)?;
        let (elsewhere, _) = self.churned(Watched::No, time)?;
        let (churned, changes) = self.churned(Watched::Yes, time)?;
        let kept = if elsewhere > 0.0 { churned / elsewhere } else { 0.0 };
        let pid = testbed::pids(&self.lab).first().copied().unwrap_or_default();
        figures.extend([
            (Metric::ChurnGbps, churned),
            (Metric::ChurnKept, kept),
            (Metric::ChangesPerSecond, changes),
            (Metric::ChangeMs, change),
            (Metric::DaemonUsPerChange, per_change),
            (Metric::StartMs, start.as_secs_f64() * 1e3),
            (Metric::RssMib, cpu::resident_mib(pid)?),
        ]);
        Ok(figures)
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// [`LabError::Teardown`].
    pub(super) fn remove(self) -> Result<(), LabError> {
        self.lab.remove()
    }

    fn ends(&self) -> Result<Ends<'_>, LabError> {
        let [client, server] = testbed::pods(&self.lab)?;
        let (netns, pids) = (testbed::netns(&self.lab), testbed::pids(&self.lab));
        Ok(Ends { client, server, netns, pids, pod_mtu: self.pod_mtu })
    }

    /// How long the sending node's daemon takes from its start until the last lease has its route:
    /// with vxlan and host-gw from empty tables, and until all peers have all their entries.
    fn restart(&mut self) -> Result<Duration, LabError> {
        let watch = match self.backend {
            Backend::Udp => Some(self.watch()?),
            Backend::Vxlan | Backend::HostGw => None,
        };
        let node = &mut self.lab.nodes_mut()[0];
        node.terminate()?;
        match self.backend {
            Backend::Udp => {}
            Backend::Vxlan => drop(node.netns().ip(&format!("link delete {}", device(node)))?),
            Backend::HostGw => drop(node.netns().ip(&format!("route flush {}", routes(node)))?),
        }
        let start = Instant::now();
        node.start()?;
        match watch {
            Some(watch) => watch.wait(true)?,
            None => self.wait_programmed()?,
        }
        let took = start.elapsed();
        self.lab.nodes_mut()[0].wait_ready()?;
        self.lab.save()?;
        let [client, server] = testbed::pods(&self.lab)?;
        wait_for(&format!("{} to carry a ping", self.name), READY, || {
            Ok(measure::reaches(&client.netns, server.addr)?.then_some(()))
        })?;
        Ok(took)
    }

    /// Waits until the sending node's kernel has every entry of every peer.
    fn wait_programmed(&self) -> Result<(), LabError> {
        let node = &self.lab.nodes()[0];
        let (netns, device) = (node.netns(), device(node));
        let num_peers = self.peers.num() + 1;
        let wait = |show: &dyn Fn() -> Result<String, LabError>| {
            wait_for(&format!("entries of {num_peers} peers"), PATIENCE, || {
                // There is no device at first.
                let entries = show().unwrap_or_default();
                Ok((entries.lines().count() >= num_peers).then_some(()))
            })
        };
        wait(&|| Ok(netns.ip(&format!("-4 route show {}", routes(node)))?))?;
        if self.backend == Backend::Vxlan {
            wait(&|| Ok(netns.ip(&format!("neigh show dev {device} nud permanent"))?))?;
            wait(&|| Ok(netns.tool("bridge").words(&format!("fdb show dev {device}")).run()?))?;
        }
        Ok(())
    }

    /// Watches for the last lease's route.
    fn watch(&self) -> Result<RouteWatch, LabError> {
        let Some(subnet) = self.peers.last_subnet() else {
            return Err(LabError::TooFew { what: "leases", least: 1 });
        };
        let watch = match self.backend {
            Backend::Udp => {
                let [client, _] = testbed::pods(&self.lab)?;
                RouteWatch::packets(&client.netns, self.lab.underlay().netns(), subnet)
            }
            Backend::Vxlan | Backend::HostGw => {
                RouteWatch::kernel(self.lab.nodes()[0].netns(), subnet)
            }
        };
        watch.map_err(LabError::io("watch routes"))
    }

    /// Milliseconds from the write of a lease to its route: the median of some.
    fn single_changes(&self) -> Result<f64, LabError> {
        let watch = self.watch()?;
        let mut millis = Vec::new();
        for _ in 0..NUM_CHANGES {
            self.peers.set_last(false)?;
            watch.wait(false)?;
            let start = Instant::now();
            self.peers.set_last(true)?;
            watch.wait(true)?;
            millis.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Spread::of(&millis).median)
    }

    /// Microseconds of CPU time that one daemon needs for one change.
    fn cpu_per_change(&self, time: Duration) -> Result<f64, LabError> {
        let pids = testbed::pids(&self.lab);
        let before = cpu::run_time(&pids)?;
        let (paused, changes) = self.while_churning(Watched::Yes, || sample::pause(time))?;
        paused?;
        self.wait_idle()?;
        let spent = cpu::run_time(&pids)?.saturating_sub(before).as_secs_f64();
        Ok(spent * 1e6 / (pids.len() as f64 * changes.max(1) as f64))
    }

    /// Waits until the daemons have done what a start brings along, such as saving all leases for
    /// the next one.
    fn wait_idle(&self) -> Result<(), LabError> {
        let pids = testbed::pids(&self.lab);
        wait_for(&format!("the daemons of {} to be idle", self.name), PATIENCE, || {
            let before = CpuTime::read(&pids)?;
            thread::sleep(IDLE);
            Ok((CpuTime::read(&pids)?.since(before).daemons < IDLE / 20).then_some(()))
        })
    }

    /// Throughput in Gb/s during [`CHURN`] changes a second, and how many there were.
    fn churned(&self, watched: Watched, time: Duration) -> Result<(f64, f64), LabError> {
        let ends = self.ends()?;
        let start = Instant::now();
        let mut took = Duration::ZERO;
        let (taken, changes) = self.while_churning(watched, || {
            let taken = sample::take(&ends, Workload::Leases, time);
            took = start.elapsed();
            taken
        })?;
        let gbps = taken?.iter().find(|(metric, _)| *metric == Metric::Gbps).map(|(_, gbps)| *gbps);
        Ok((gbps.unwrap_or_default(), changes as f64 / took.as_secs_f64()))
    }

    /// Changes leases while `work` goes on; gives what it found, and the number of changes.
    fn while_churning<T>(
        &self,
        watched: Watched,
        work: impl FnOnce() -> T,
    ) -> Result<(T, u64), LabError> {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let (done, churned) = thread::scope(|scope| {
            let churn = scope.spawn(|| self.peers.churn(CHURN, watched, &stop, &count));
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let panicked = |_| Err(LabError::io("change leases")(io::Error::other("it panicked")));
            (done, churn.join().unwrap_or_else(panicked))
        });
        churned?;
        Ok((done, count.load(Ordering::Relaxed)))
    }
}

/// The device that a node's routes to its peers lead to.
fn device(node: &Node) -> String {
    node.overlay().map(|overlay| overlay.device.clone()).unwrap_or_default()
}

/// Selects these routes in `ip route show` and `flush`.
fn routes(node: &Node) -> String {
    let network = node.overlay().map(|overlay| overlay.env.network.to_string());
    format!("root {} dev {}", network.unwrap_or_default(), device(node))
}
