//! [`Lab`]: a network of nodes, from its spec to its removal.

mod spec;
pub mod topology;
pub mod node;
pub mod pods;
pub mod daemon;
pub mod etcd;
pub mod kube;
pub(crate) mod etcd_client;
pub mod registry;
pub mod datapath;
pub mod backend;
pub mod stock_emulator;

use std::thread;
use std::time::Duration;

use self::etcd::Etcd;
use self::kube::KubeServer;
use self::node::Node;
use self::pods::Pod;
use self::registry::{Registry, RegistryFile, RegistryKind};
pub use self::spec::{DEFAULT_CONFIG, LabSpec};
use self::topology::{ETCD_ADDR, MAX_NODES, Names, Underlay};
use super::LabError;
use super::host::netns::Netns;
use super::host::process::Process;
use super::host::signals;
use super::host::tools;
use super::host::wait::wait_for;
use super::progress::{step, warn};
use super::state::{self, LabState, NodeState};
use super::teardown;
use super::traffic::measure;

/// A network of nodes. Dropping it removes it, unless [`keep`](Lab::keep) was called.
#[derive(Debug)]
pub struct Lab {
    names: Names,
    spec: LabSpec,
    underlay: Underlay,
    registry: Registry,
    nodes: Vec<Node>,
    cleanup: Cleanup,
}

/// Removes the lab when dropped; a value of its own so that a half-made lab is removed too.
#[derive(Debug)]
struct Cleanup {
    names: Names,
    armed: bool,
}

/// How long all pods may take to reach each other once every node is ready: peers learn of each
/// other from the registry within milliseconds, or at the next look at it.
const REACHABLE: Duration = Duration::from_secs(60);

impl Lab {
    /// Creates underlay, registry and all nodes; starts nothing on the nodes yet.
    ///
    /// Labs whose owner crashed are removed first.
    ///
    /// # Errors
    /// [`LabError`]; whatever was made by then is removed.
    pub fn create(spec: LabSpec) -> Result<Self, LabError> {
        let names = Names::new(&spec.name)?;
        signals::catch().map_err(LabError::io("catch SIGINT and SIGTERM"))?;
        tools::preflight(spec.registry)?;
        spec.check_daemons()?;
        remove_orphans();
        LabState::new(&names, &spec).claim(&names)?;
        step(&format!("lab {}: {} nodes, {} pods each", spec.name, spec.num_nodes, spec.num_pods));
        let cleanup = Cleanup { names: names.clone(), armed: true };
        let underlay = Underlay::create(&names, spec.mtu)?;
        let registry = start_registry(&spec, &names, &underlay)?;
        let (num_nodes, nodes) = (spec.num_nodes, Vec::new());
        let mut lab = Self { names, spec, underlay, registry, nodes, cleanup };
        match &mut lab.registry {
            Registry::Etcd(_) | Registry::File(_) => {}
            Registry::Kube(server) => server.wait_ready()?,
        }
        for _ in 0..num_nodes {
            lab.add_node()?;
        }
        match &mut lab.registry {
            Registry::Etcd(etcd) => etcd.wait_ready()?,
            Registry::File(_) | Registry::Kube(_) => {}
        }
        if let Some(config) = &lab.spec.config {
            lab.registry.put_config(config)?;
        }
        lab.save()?;
        Ok(lab)
    }

    /// Creates the lab and takes it to the point where every pod reaches every other.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`LabError::Daemon`] or [`LabError::NotInTime`].
    pub fn up(spec: LabSpec) -> Result<Self, LabError> {
        let mut lab = Self::create(spec)?;
        step("config written; starting flanneld on every node");
        lab.start_all()?;
        for node in &lab.nodes {
            if let Some(overlay) = node.overlay() {
                let (env, device) = (&overlay.env, &overlay.device);
                step(&format!("{} has {} on {device}, MTU {}", node.name(), env.subnet, env.mtu));
            }
        }
        lab.wait_reachable()?;
        step("every pod reaches every other");
        Ok(lab)
    }

    /// Starts all daemons at once, waits for them, and attaches the pods.
    ///
    /// # Errors
    /// [`LabError::Daemon`] of the first node that does not get ready.
    pub fn start_all(&mut self) -> Result<(), LabError> {
        self.nodes.iter_mut().try_for_each(Node::start)?;
        for node in &mut self.nodes {
            node.wait_ready()?;
            node.attach_pods(self.spec.num_pods)?;
        }
        self.save()
    }

    /// Creates one more node, without starting its daemon.
    ///
    /// # Errors
    /// [`LabError::TooMany`] when there is no address left, or what failed.
    pub fn add_node(&mut self) -> Result<&mut Node, LabError> {
        let number = self.nodes.len() + 1;
        if number > MAX_NODES {
            return Err(LabError::TooMany { what: "nodes", most: MAX_NODES });
        }
        let daemon = self.spec.daemon_of(&format!("n{number}"));
        let registry = self.spec.registry;
        let backend = self.spec.backend();
        let node = Node::create(&self.names, number, &self.underlay, (registry, backend), daemon)?;
        if let Registry::Kube(server) = &self.registry {
            server.add_node(number)?;
        }
        if self.spec.frames_only {
            self.underlay.carry_frames_only(node.netns(), &node.name())?;
        }
        self.nodes.push(node);
        Ok(&mut self.nodes[number - 1])
    }

    /// Waits until every pod reaches every other.
    ///
    /// # Errors
    /// [`LabError::NotInTime`] naming a pair that does not.
    pub fn wait_reachable(&self) -> Result<(), LabError> {
        let pods: Vec<&Pod> = self.nodes.iter().flat_map(Node::pods).collect();
        for from in &pods {
            for to in &pods {
                let what = format!("{} to reach {}", from.name, to.name);
                wait_for(&what, REACHABLE, || {
                    Ok(measure::reaches(&from.netns, to.addr)?.then_some(()))
                })?;
            }
        }
        Ok(())
    }

    /// The lab's names.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// What it was made from.
    pub const fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// MTU of the underlay, in bytes.
    pub const fn mtu(&self) -> u16 {
        self.underlay.mtu()
    }

    /// What its nodes are joined to.
    pub const fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// Its nodes; the first is `n1`.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its nodes, to start and stop.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Its registry.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its etcd, to stop and start.
    ///
    /// # Panics
    /// The lab was made with another registry.
    pub fn etcd(&mut self) -> &mut Etcd {
        match &mut self.registry {
            Registry::Etcd(etcd) => etcd,
            Registry::File(_) | Registry::Kube(_) => {
                panic!("lab {} has no etcd", self.names.lab())
            }
        }
    }

    /// Its API server, to stop and start.
    ///
    /// # Panics
    /// The lab was made with another registry.
    pub fn kube(&mut self) -> &mut KubeServer {
        match &mut self.registry {
            Registry::Kube(server) => server,
            Registry::Etcd(_) | Registry::File(_) => {
                panic!("lab {} has no API server", self.names.lab())
            }
        }
    }

    /// Lets the lab stay when this value is dropped.
    ///
    /// # Errors
    /// [`LabError::Io`] when its state cannot be written; it does not stay then.
    pub fn keep(mut self) -> Result<(), LabError> {
        let state = LabState { owner: None, ..self.state() };
        state.save(&self.names)?;
        self.cleanup.armed = false;
        Ok(())
    }

    /// Removes the lab now and returns what could not be removed.
    ///
    /// # Errors
    /// [`LabError::Teardown`].
    pub fn remove(mut self) -> Result<(), LabError> {
        self.cleanup.armed = false;
        teardown::remove(&self.names)
    }

    /// Writes `lab.json` again, after nodes were started or stopped.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn save(&self) -> Result<(), LabError> {
        self.state().save(&self.names)
    }

    fn state(&self) -> LabState {
        let node = |node: &Node| NodeState {
            name: node.name(),
            netns: node.netns().clone(),
            addr: node.addr(),
            daemon: node.daemon().clone(),
            process: node.process().map(Process::id),
            env: node.overlay().map(|overlay| overlay.env),
            pods: node.pods().to_vec(),
        };
        let nodes = self.nodes.iter().map(node).collect();
        let etcd = match &self.registry {
            Registry::Etcd(etcd) => Some(etcd.id()),
            Registry::Kube(server) => Some(server.id()),
            Registry::File(_) => None,
        };
        LabState { etcd, nodes, ..LabState::new(&self.names, &self.spec) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failing test shows what its daemons said; their logs are about to go.
        if thread::panicking() {
            for node in &self.nodes {
                warn(&format!("{} logged last:\n{}", node.name(), node.log_tail(20)));
            }
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = teardown::remove(&self.names)
        {
            warn(&error.to_string());
        }
    }
}

/// Starts an etcd or an API server on the underlay, which is not ready yet, or names the file to use
/// instead.
fn start_registry(
    spec: &LabSpec,
    names: &Names,
    underlay: &Underlay,
) -> Result<Registry, LabError> {
    match spec.registry {
        RegistryKind::Etcd => {
            let netns = Netns::create(names.etcd())?;
            underlay.join(&netns, "etcd", ETCD_ADDR)?;
            let etcd = Etcd::start(netns, names.dir().join("etcd"))?;
            Ok(Registry::Etcd(Box::new(etcd)))
        }
        RegistryKind::Kube => {
            let netns = Netns::create(names.etcd())?;
            underlay.join(&netns, "etcd", ETCD_ADDR)?;
            let config = spec.config.as_deref().unwrap_or(DEFAULT_CONFIG);
            let server = KubeServer::start(netns, names.dir(), &spec.flannel_lab, config)?;
            Ok(Registry::Kube(Box::new(server)))
        }
        RegistryKind::File => Ok(Registry::File(RegistryFile::new(names.registry_file()))),
    }
}

/// Removes labs whose owner crashed.
fn remove_orphans() {
    for names in state::all_labs() {
        if LabState::load(&names).is_ok_and(|state| state.is_orphan()) {
            step(&format!("removing lab {}, which its owner left behind", names.lab()));
            if let Err(error) = teardown::remove(&names) {
                warn(&error.to_string());
            }
        }
    }
}
