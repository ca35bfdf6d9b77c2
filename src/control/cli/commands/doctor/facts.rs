//! [`Facts`]: all that the checks know. Plain data, which tests write down.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::control::cli::commands::ping::verdict::Verdict;
use crate::control::cli::commands::survey::{Own, RegistryFacts};
use crate::control::config::daemon::Config;
use crate::control::host::findings::OverlayFacts;
use crate::control::host::firewall::trace::Rules;
use crate::control::host::net::{
    FarEnd, Forwarded, LinkDetails, Neighbour, PolicyRule, RouteDetails, TrafficControl,
};

/// What is known of this host, of the registry and of the peers.
#[derive(Debug)]
pub(in crate::control::cli) struct Facts {
    /// The daemon's settings.
    pub(super) config: Config,
    /// Whether nobody gave any: a daemon that does not run may have had others.
    pub(super) are_defaults: bool,
    pub(super) user: User,
    pub(super) daemons: Vec<Daemon>,
    /// What the running daemon says of itself: what is wrong, a line each.
    pub(super) said: Vec<Said>,
    pub(super) kernel: Kernel,
    pub(super) links: Vec<LinkDetails>,
    /// Those that concern the network.
    pub(super) routes: Vec<RouteDetails>,
    /// The operator's rules about tables.
    pub(super) policy_rules: Vec<PolicyRule>,
    /// What the kernel does with packets of containers, out and in.
    pub(super) pod_ways: Vec<PodWay>,
    /// The interfaces of the containers of this host.
    pub(super) far_ends: Vec<FarEnd>,
    /// Those of its containers that do not answer this host.
    pub(super) silent_containers: Vec<Ipv4Addr>,
    pub(super) neighbours: Vec<Neighbour>,
    /// Queues and filters at the links of the overlay.
    pub(super) traffic_control: Vec<TrafficControl>,
    /// The numbers of the fast path's BPF programs.
    pub(super) own_programs: Vec<u32>,
    pub(super) udp_ports: Vec<UdpPort>,
    pub(super) rules: Rules,
    /// Services that are active: `firewalld`.
    pub(super) services: Vec<&'static str>,
    /// Devices that a network manager manages, with its name.
    pub(super) managed: Vec<(String, &'static str)>,
    pub(super) files: Files,
    /// Names of etcd endpoints that have no address, each with the reason.
    pub(super) unresolved: Vec<String>,
    /// Why there is no external interface.
    pub(super) no_iface: Option<String>,
    /// MTU of the external interface.
    pub(super) iface: Option<Iface>,
    pub(super) registry: RegistryFacts,
    /// `None` without a network or an interface.
    pub(super) own: Option<Own>,
    /// Addresses of the underlay that the network covers, a line each.
    pub(super) overlaps: Vec<String>,
    pub(super) peers: Vec<PeerFact>,
    /// Peers that were not asked.
    pub(super) num_unasked: usize,
}

/// Who runs this command.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct User {
    pub(super) has_net_admin: bool,
    pub(super) may_ping: bool,
}

/// A running flanneld in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Daemon {
    pub(super) pid: u32,
    /// Whether a signal has stopped it.
    pub(super) is_stopped: bool,
    /// Its share of CPU time, if its control group limits that and has made it wait.
    pub(super) cpu_limit: Option<CpuLimit>,
    /// Most files that it may have open.
    pub(super) open_files: Option<u64>,
}

/// A limit of CPU time that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuLimit {
    /// Percent of one CPU.
    pub(super) percent: u64,
    /// Percent of the periods in which it had to wait.
    pub(super) waited: u64,
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// What it is about, as in `/readyz`.
    pub(super) name: String,
    /// Whether the node is not ready because of it.
    pub(super) is_failure: bool,
    pub(super) text: String,
}

/// Settings and features of the kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    /// Values by name: `net.ipv4.ip_forward`.
    pub(super) sysctls: BTreeMap<String, String>,
    /// Why no TUN device can be made.
    pub(super) no_tun: Option<String>,
    /// Modules that are neither loaded nor there to be loaded.
    pub(super) missing_modules: Vec<&'static str>,
    /// Whether `br_netfilter` is loaded.
    pub(super) has_bridge_nf: bool,
    /// Entries in the neighbour table.
    pub(super) num_neighbours: usize,
}

/// A bound UDP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UdpPort {
    pub(super) addr: Ipv4Addr,
    pub(super) port: u16,
    /// Name and pid of its process; `None` for the kernel's.
    pub(super) owner: Option<(String, u32)>,
}

/// The external interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Iface {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) public_ip: Ipv4Addr,
}

/// Files of flanneld and of its users.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// `subnet.env`; `None` if there is none.
    pub(super) subnet_env: Option<SubnetEnvFact>,
    /// Why nothing can be written next to it.
    pub(super) unwritable: Option<String>,
    /// `bip` and `mtu` as Docker is told them, and where.
    pub(super) docker: Option<DockerFact>,
}

/// What subnet.env says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubnetEnvFact {
    pub(super) network: Option<Ipv4Network>,
    pub(super) subnet: Option<Ipv4Network>,
    pub(super) mtu: Option<u16>,
}

/// What Docker is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct DockerFact {
    pub(super) place: String,
    pub(super) bip: Option<Ipv4Network>,
    pub(super) mtu: Option<u32>,
}

/// What the kernel does with a packet between a container of this host and one of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodWay {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    /// The link that it comes in by.
    pub(super) in_link: String,
    /// The link that it should leave by.
    pub(super) out_link: String,
    pub(super) found: Forwarded,
}

/// A peer that was asked.
#[derive(Debug, Clone)]
pub(super) struct PeerFact {
    pub(super) public_ip: Ipv4Addr,
    pub(super) subnet: Ipv4Network,
    pub(super) verdict: Verdict,
}

impl Facts {
    /// The overlay device, once it is there.
    pub(super) fn device(&self) -> Option<&LinkDetails> {
        let device = self.own.as_ref()?.device.as_ref()?;
        self.links.iter().find(|it| it.link.name == device.name)
    }

    /// The overlay as containers of this host need it; `None` before the first start.
    pub(super) fn overlay(&self) -> Option<OverlayFacts> {
        let own = self.own.as_ref()?;
        let device = own.device.as_ref()?;
        let (network, subnet, mtu) = (own.network, own.subnet?, device.mtu);
        Some(OverlayFacts { network, subnet, device: device.name.clone(), mtu })
    }

    /// The subnet of some peer, or one that could be.
    pub(super) fn a_peers_subnet(&self, overlay: &OverlayFacts) -> Ipv4Addr {
        let mut others = self.registry.leases.iter().map(|lease| lease.subnet);
        let other = others.find(|subnet| *subnet != overlay.subnet).map(|it| it.network());
        other.unwrap_or_else(|| overlay.network.network())
    }

    /// The value of a kernel setting.
    pub(super) fn sysctl(&self, name: &str) -> Option<&str> {
        self.kernel.sysctls.get(name).map(String::as_str)
    }
}
