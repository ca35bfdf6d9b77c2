//! Facts of a healthy node, for tests to spoil.

use std::time::Duration;

use ipnetwork::Ipv4Network;

use crate::control::cli::commands::doctor::facts::{
    Daemon, Facts, Files, Iface, Kernel, PeerFact, PodWay, SubnetEnvFact, UdpPort, User,
};
use crate::control::cli::commands::doctor::finding::{Finding, Level};
use crate::control::cli::commands::ping::verdict::Verdict;
use crate::control::cli::commands::survey::{Device, LeaseFact, Own, RegistryFacts, Wire};
use crate::control::cli::{Invocation, parse};
use crate::control::config::daemon::Config;
use crate::control::host::firewall::trace::Rules;
use crate::control::host::net::{
    FarEnd, Forwarded, Link, LinkAddr, LinkDetails, Mac, RouteDetails, RouteFields,
};

/// Warnings and failures.
pub(super) fn levels(found: &[Finding]) -> (usize, usize) {
    let count = |level| found.iter().filter(|it| it.level == level).count();
    (count(Level::Warn), count(Level::Fail))
}

/// The only finding that is not ok; it says what to do.
#[track_caller]
pub(super) fn only(found: Vec<Finding>) -> Finding {
    let mut bad = found.into_iter().filter(|it| it.level != Level::Ok);
    let first = bad.next().expect("nothing is found");
    assert_eq!(bad.next(), None);
    assert!(first.advice.as_ref().is_some_and(|advice| !advice.is_empty()), "{first:?}");
    first
}

pub(super) fn with_sysctl(name: &str, value: &str) -> Facts {
    let mut facts = facts();
    facts.kernel.sysctls.insert(name.to_owned(), value.to_owned());
    facts
}

pub(super) fn lease(subnet: &str, public_ip: &str, backend: &str) -> LeaseFact {
    LeaseFact {
        subnet: subnet.parse().unwrap(),
        public_ip: public_ip.parse().unwrap(),
        backend: backend.to_owned(),
    }
}

pub(super) fn link(
    index: u32,
    name: &str,
    kind: Option<&str>,
    addr: &str,
    mtu: u32,
) -> LinkDetails {
    let addr: Ipv4Network = addr.parse().unwrap();
    LinkDetails {
        link: Link { index, name: name.to_owned(), mtu, is_up: true, has_carrier: true },
        kind: kind.map(str::to_owned),
        addrs: vec![LinkAddr { addr: addr.ip(), prefix_len: addr.prefix() }],
        queue_len: 1000,
        ..LinkDetails::default()
    }
}

fn config() -> Config {
    let Invocation::Run(config) = parse([], []).unwrap() else { panic!("it is the daemon's") };
    *config
}

fn route(dst: &str, link: u32, protocol: u8) -> RouteDetails {
    let dst = dst.parse().unwrap();
    let (gateway, has_gateway, link) = (None, false, Some(link));
    let fields = RouteFields { dst, table: 254, link, gateway, has_gateway, metric: 0 };
    RouteDetails { fields, protocol, is_end: false }
}

fn way(from: ([u8; 4], &str), to: ([u8; 4], &str), route: RouteDetails) -> PodWay {
    let ((src, in_link), (dst, out_link)) = (from, to);
    let [in_link, out_link] = [in_link, out_link].map(str::to_owned);
    let found = Forwarded::By(route.fields);
    PodWay { src: src.into(), dst: dst.into(), in_link, out_link, found }
}

/// A udp node at 192.0.2.1 with 10.5.7.0/24, and a peer at 192.0.2.9 with 10.5.9.0/24.
pub(super) fn facts() -> Facts {
    let network = r#"{"Network":"10.5.0.0/16"}"#;
    let public_ip = [192, 0, 2, 1].into();
    let subnet = Some("10.5.7.0/24".parse().unwrap());
    let registry = RegistryFacts {
        name: "etcd key /coreos.com/network/config".to_owned(),
        took: Duration::from_millis(3),
        network: Some(crate::control::config::network::parse(network, None).unwrap()),
        leases: vec![
            lease("10.5.7.0/24", "192.0.2.1", "udp"),
            lease("10.5.9.0/24", "192.0.2.9", "udp"),
        ],
        clock_ahead: Some(-1),
        ..RegistryFacts::default()
    };
    let own = Own {
        addr: public_ip,
        public_ip,
        network: "10.5.0.0/16".parse().unwrap(),
        subnet,
        device: Some(Device { name: "flannel0".to_owned(), mtu: 1472 }),
        wire: Wire::Udp { port: 8285 },
    };
    let sysctls = [("net.ipv4.ip_forward", "1"), ("net.ipv4.conf.eth0.rp_filter", "0")];
    let kernel = Kernel {
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        has_bridge_nf: true,
        ..Kernel::default()
    };
    let network = Some(own.network);
    let env = SubnetEnvFact { network, subnet, mtu: Some(1472) };
    let (text, advice, doubt) = ("packets reach it".to_owned(), None, None);
    let verdict = Verdict { ok: true, text, advice, doubt, is_local: false };
    let peer = PeerFact {
        public_ip: [192, 0, 2, 9].into(),
        subnet: "10.5.9.0/24".parse().unwrap(),
        verdict,
    };
    let owner = Some(("flanneld".to_owned(), 7));
    let (to_peers, to_bridge) = (route("10.5.0.0/16", 4, 3), route("10.5.7.0/24", 3, 2));
    Facts {
        config: config(),
        are_defaults: false,
        user: User { has_net_admin: true, may_ping: true },
        daemons: vec![Daemon { pid: 7, open_files: Some(1024), ..Daemon::default() }],
        said: Vec::new(),
        kernel,
        links: vec![
            link(1, "lo", None, "127.0.0.1/8", 65536),
            link(2, "eth0", None, "192.0.2.1/24", 1500),
            link(3, "docker0", Some("bridge"), "10.5.7.1/24", 1472),
            link(4, "flannel0", Some("tun"), "10.5.7.0/32", 1472),
            LinkDetails {
                master: Some(3),
                far_end: Some((0, 2)),
                addrs: Vec::new(),
                ..link(5, "veth1", Some("veth"), "0.0.0.0/0", 1472)
            },
        ],
        policy_rules: Vec::new(),
        pod_ways: vec![
            way(([10, 5, 7, 2], "docker0"), ([10, 5, 9, 2], "flannel0"), to_peers),
            way(([10, 5, 9, 2], "flannel0"), ([10, 5, 7, 2], "docker0"), to_bridge),
        ],
        far_ends: vec![FarEnd {
            near: 5,
            link: link(2, "eth0", Some("veth"), "0.0.0.0/0", 1472).link,
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            addrs: vec![LinkAddr { addr: [10, 5, 7, 2].into(), prefix_len: 24 }],
            routes: None,
        }],
        silent_containers: Vec::new(),
        neighbours: Vec::new(),
        traffic_control: Vec::new(),
        own_programs: Vec::new(),
        routes: vec![to_peers, to_bridge],
        udp_ports: vec![UdpPort { addr: public_ip, port: 8285, owner }],
        rules: Rules::default(),
        services: Vec::new(),
        managed: Vec::new(),
        files: Files { subnet_env: Some(env), ..Files::default() },
        unresolved: Vec::new(),
        no_iface: None,
        iface: Some(Iface { name: "eth0".to_owned(), mtu: 1500, public_ip }),
        registry,
        own: Some(own),
        overlaps: Vec::new(),
        peers: vec![peer],
        num_unasked: 0,
    }
}
