//! Accidents of the host's own network: what somebody deletes or changes while packets flow.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use twill::lab::netns::Netns;
use twill::lab::node::Node;
use twill::lab::traffic::tcp;
use twill::lab::{Lab, LabSpec, probe};

use crate::harness::{
    FLANNEL_LAB, eventually, failing_checks, generator, overlay, ping, pod, spec, up,
};

/// What `ip` is told, and what the daemon says then. Each happens twice.
const ACCIDENTS: [(&str, &str); 6] = [
    ("link del flannel0", "somebody deleted flannel0: making it anew"),
    ("link set flannel0 down", "it was down; put right"),
    ("route del 10.5.0.0/16 dev flannel0", "it had lost the route to the network"),
    ("addr flush dev flannel0", "it had lost its address"),
    ("route replace 10.5.0.0/16 dev lo", "it had lost the route to the network"),
    ("link set flannel0 mtu 1200", "it had another MTU"),
];

#[test]
fn what_somebody_does_to_the_device_is_put_right_and_connections_go_on() {
    let lab = up("accidents", 2);
    let node = &lab.nodes()[0];
    let sound = device(node);
    let _server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
    let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
    // One connection: a new one may well be refused with an ICMP while there is no route.
    let plan = tcp::Plan { up: 512 << 20, down: 1 << 20, time: Duration::ZERO };
    let flows = thread::spawn(move || generator().tcp(&client, addr, plan));
    let mut carried = packets(node);
    for (accident, said) in ACCIDENTS.repeat(2) {
        node.netns().ip(accident).unwrap();
        eventually(accident, || device(node) == sound);
        eventually("packets go on", || ping(pod(&lab, 0), "-c 1 -W 1", addr).0);
        eventually(said, || node.log_tail(1000).contains(said));
        let before = std::mem::replace(&mut carried, packets(node));
        assert!(before < carried, "{accident}: counters never go back: {before}, {carried}");
    }
    let report = flows.join().unwrap().unwrap();
    assert_eq!((report.answered, report.corrupt), (1, 0), "{report:?}");
}

#[test]
fn external_interface_is_followed_and_its_losses_are_told() {
    let lab = up("underlay", 2);
    let node = &lab.nodes()[0];
    let reaches = |args: &str| ping(pod(&lab, 0), args, pod(&lab, 1).addr).0;
    let repairs = || node.log_tail(1000).matches("underlay is in place again").count();
    let losses = [
        ("link set eth0 down", "interface eth0 is down", "link set eth0 up"),
        (
            "addr del 192.168.64.11/24 dev eth0",
            "address 192.168.64.11 of interface eth0 is gone",
            "addr add 192.168.64.11/24 dev eth0",
        ),
    ];
    for (repaired, (loss, said, repair)) in losses.into_iter().enumerate() {
        node.netns().ip(loss).unwrap();
        eventually(said, || node.log_tail(1000).contains(said));
        let fails = |name: &str| failing_checks(node).iter().any(|check| check == name);
        eventually("the node is not ready", || fails("underlay"));
        assert!(!reaches("-c 1 -W 1"), "{loss}");
        node.netns().ip(repair).unwrap();
        eventually("the repair is told", || repairs() == repaired + 1);
        eventually("the node is ready again", || failing_checks(node).is_empty());
        eventually("packets go on", || reaches("-c 1 -W 1"));
    }

    for (link_mtu, tun_mtu) in [(1300, 1272), (1500, 1472), (2000, 1472)] {
        node.netns().ip(&format!("link set eth0 mtu {link_mtu}")).unwrap();
        eventually("the device follows", || mtu(node) == tun_mtu);
        let said = format!("interface eth0 has MTU {link_mtu} now");
        eventually(&said, || node.log_tail(1000).contains(&said));
        assert!(reaches(&format!("-c 1 -W 2 -M dont -s {}", tun_mtu - 28)), "{link_mtu}");
    }
}

/// Two nodes that know each other by public IPs which no interface has: the underlay's router
/// turns them into the nodes' addresses and back.
#[test]
fn nodes_behind_a_nat_reach_each_other_by_their_public_ips() {
    let spec = spec("nat", 2);
    let behind_nat = |number: usize| {
        let flags = format!("-public-ip=203.0.113.{number} -iface=eth0");
        (format!("n{number}"), spec.daemon.clone().with(&flags))
    };
    let daemons = BTreeMap::from([1, 2].map(behind_nat));
    let mut lab = Lab::create(LabSpec { daemons, ..spec }).unwrap();
    translate(&Netns::named(lab.names().underlay()));
    lab.start_all().unwrap();
    lab.wait_reachable().unwrap();
    let leases = lab.etcd().leases().unwrap();
    assert!(leases.iter().all(|(_, value)| value.to_string().contains("203.0.113.")), "{leases:?}");
    let sockets = lab.nodes()[0].netns().tool("ss").words("-ulnH sport = :8285").run().unwrap();
    assert!(sockets.contains("192.168.64.11:8285"), "{sockets}");
    crate::harness::assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 8);
}

fn translate(router: &Netns) {
    let rules = "table ip nat {
        chain in { type nat hook prerouting priority dstnat;
            ip daddr 203.0.113.1 dnat to 192.168.64.11;
            ip daddr 203.0.113.2 dnat to 192.168.64.12; };
        chain out { type nat hook postrouting priority srcnat;
            ip saddr 192.168.64.11 ip daddr 192.168.64.12 snat to 203.0.113.1;
            ip saddr 192.168.64.12 ip daddr 192.168.64.11 snat to 203.0.113.2; }; }";
    router.sysctl("net.ipv4.ip_forward=1").unwrap();
    router.tool("nft").arg(rules).run().unwrap();
}

/// What the host says of the overlay device, but for its number.
fn device(node: &Node) -> Option<(String, String, u64)> {
    let netns = node.netns();
    let addrs = netns.ip("-4 -o addr show up dev flannel0").ok()?;
    let addrs = addrs.split_once(": ")?.1.to_owned();
    let route = netns.ip(&format!("-4 route show {}", overlay(node).env.network)).ok()?;
    Some((addrs, route, mtu(node)))
}

/// The overlay device's MTU; 0 without one.
fn mtu(node: &Node) -> u64 {
    let json = node.netns().ip("-j link show dev flannel0").unwrap_or_default();
    let links: Value = serde_json::from_str(&json).unwrap_or_default();
    links[0]["mtu"].as_u64().unwrap_or_default()
}

/// Inner packets that the node has carried in either direction since it started.
fn packets(node: &Node) -> u64 {
    let json = probe::fetch_health(node.netns(), Path::new(FLANNEL_LAB), "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    let workers = stats["dataplane"]["workers"].as_array().unwrap();
    let of = |worker: &Value, direction: &str| worker[direction]["packets"].as_u64().unwrap();
    workers.iter().map(|worker| of(worker, "egress") + of(worker, "ingress")).sum()
}
