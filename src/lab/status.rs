//! How a lab that stays is doing: from its state file, and a look at what still runs.

use std::net::Ipv4Addr;

use serde::Serialize;

use super::LabError;
use super::host::process::ProcessId;
use super::link::{self, Quality};
use super::network::registry::RegistryKind;
use super::network::topology::Names;
use super::report::table;
use super::state::{LabState, NodeState};
use super::traffic::measure;

/// A lab, now.
#[derive(Debug, Serialize)]
pub struct LabStatus {
    /// Its name.
    pub name: String,
    /// Where its nodes keep their leases.
    pub registry: RegistryKind,
    /// Whether its etcd runs; none for a lab without.
    pub etcd_alive: Option<bool>,
    /// etcd's link; none for a lab without.
    pub etcd_link: Option<LinkStatus>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node, now.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// Its name within the lab.
    pub name: String,
    /// Its namespace.
    pub netns: String,
    /// Its address on the underlay.
    pub addr: Ipv4Addr,
    /// Its link to the underlay.
    pub link: LinkStatus,
    /// Its lease, such as `10.5.7.0/24`.
    pub subnet: Option<String>,
    /// What it runs: `twill`, `stock-emulator`, or a path.
    pub daemon: String,
    /// The pid of its flanneld.
    pub pid: Option<u32>,
    /// Whether that still runs.
    pub alive: bool,
    /// Peers whose bridge answers a ping from here.
    pub peers_reachable: usize,
    /// Peers that have a lease.
    pub peers: usize,
    /// Its pods: name and address.
    pub pods: Vec<(String, Ipv4Addr)>,
}

/// A link, now.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStatus {
    /// Whether it is cut.
    pub cut: bool,
    /// What it does to packets while it is not.
    #[serde(flatten)]
    pub quality: Quality,
}

impl LabStatus {
    /// Looks at the lab; pings every peer's bridge from every node.
    ///
    /// # Errors
    /// [`LabError::Command`] when ping cannot be run.
    pub fn of(state: &LabState) -> Result<Self, LabError> {
        let cut = link::cut_links(&Names::new(&state.name)?)?;
        let link = |name: &str| LinkStatus {
            cut: cut.iter().any(|cut| cut == name),
            quality: state.links.get(name).copied().unwrap_or_default(),
        };
        let nodes =
            state.nodes.iter().map(|node| NodeStatus::of(node, link(&node.name), &state.nodes));
        Ok(Self {
            name: state.name.clone(),
            registry: state.registry,
            etcd_alive: state.etcd.map(ProcessId::is_alive),
            etcd_link: state.etcd.map(|_| link("etcd")),
            nodes: nodes.collect::<Result<_, _>>()?,
        })
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        let header =
            ["node", "namespace", "underlay", "link", "subnet", "flanneld", "peers", "pods"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.nodes.iter().map(NodeStatus::row));
        let registry = match (self.registry, self.etcd_alive) {
            (RegistryKind::Etcd, Some(true)) => "etcd runs",
            (RegistryKind::Etcd, Some(false) | None) => "etcd is gone",
            (RegistryKind::File, _) => "leases in a file",
            (RegistryKind::Kube, Some(true)) => "API server runs",
            (RegistryKind::Kube, Some(false) | None) => "API server is gone",
        };
        let registry = match self.etcd_link.as_ref().map(LinkStatus::text).as_deref() {
            None | Some("up") => registry.to_owned(),
            Some(link) => format!("{registry}, link etcd {link}"),
        };
        format!("lab {}: {registry}\n{}", self.name, table(&rows))
    }
}

impl LinkStatus {
    /// `cut`, `up`, or what happens to packets on it.
    fn text(&self) -> String {
        let Quality { delay, loss_percent } = self.quality;
        let mut parts = Vec::new();
        if !delay.is_zero() {
            parts.push(format!("+{delay:?}"));
        }
        if loss_percent > 0.0 {
            parts.push(format!("{loss_percent}% lost"));
        }
        match (self.cut, parts.is_empty()) {
            (true, _) => "cut".to_owned(),
            (false, true) => "up".to_owned(),
            (false, false) => parts.join(", "),
        }
    }
}

impl NodeStatus {
    fn of(node: &NodeState, link: LinkStatus, all: &[NodeState]) -> Result<Self, LabError> {
        let peers = all.iter().filter(|peer| peer.name != node.name);
        let bridges: Vec<Ipv4Addr> = peers.filter_map(|peer| Some(peer.env?.bridge)).collect();
        let mut peers_reachable = 0;
        for bridge in &bridges {
            peers_reachable += usize::from(measure::reaches(&node.netns, *bridge)?);
        }
        Ok(Self {
            name: node.name.clone(),
            netns: node.netns.name().to_owned(),
            addr: node.addr,
            link,
            daemon: node.daemon.title(),
            subnet: node.env.map(|env| env.subnet.to_string()),
            pid: node.process.map(|process| process.pid),
            alive: node.process.is_some_and(ProcessId::is_alive),
            peers_reachable,
            peers: bridges.len(),
            pods: node.pods.iter().map(|pod| (pod.name.clone(), pod.addr)).collect(),
        })
    }

    fn row(&self) -> Vec<String> {
        let flanneld = match self.pid {
            Some(pid) if self.alive => format!("{}, pid {pid}", self.daemon),
            Some(pid) => format!("{}, pid {pid} died", self.daemon),
            None => format!("{}, never started", self.daemon),
        };
        let pods: Vec<String> =
            self.pods.iter().map(|(name, addr)| format!("{name} {addr}")).collect();
        vec![
            self.name.clone(),
            self.netns.clone(),
            self.addr.to_string(),
            self.link.text(),
            self.subnet.clone().unwrap_or_else(|| "none".to_owned()),
            flanneld,
            format!("{} of {}", self.peers_reachable, self.peers),
            pods.join(", "),
        ]
    }
}
