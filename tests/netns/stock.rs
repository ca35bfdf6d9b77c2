//! Together with a node that behaves as stock's udp backend does.

use std::collections::BTreeMap;
use std::process::{self, Command};

use twill::lab::network::daemon::Daemon;
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNEL_LAB, assert_tcp_is_whole, assert_udp_is_whole, overlay, ping, pod, spec,
};

/// `flannel-lab interop` with that other flanneld: whether it succeeds, and the table.
fn interop(topic: &str, other: &str, flags: &str) -> (bool, String) {
    interop_of("udp", topic, other, flags)
}

fn interop_of(backend: &str, topic: &str, other: &str, flags: &str) -> (bool, String) {
    let name = format!("t{}-{topic}", process::id());
    let mut interop = Command::new(FLANNEL_LAB);
    interop.args(["interop", "--name", &name, "--flanneld", other, "--flags", flags]);
    interop.args(["--backend", backend]);
    let output = interop.output().unwrap();
    let [table, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(table.starts_with("case "), "{said}");
    (output.status.success(), table)
}

#[test]
fn every_case_of_interop_passes_with_our_own_in_the_place_of_stock() {
    let flags = "--offload=off --workers=1 --source-ports=shared";
    let (success, table) = interop("own", crate::harness::FLANNELD, flags);
    assert!(success, "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with(" ok")).count(), 11, "{table}");
}

#[test]
fn every_case_of_interop_passes_with_the_backends_whose_routes_are_the_kernels() {
    for backend in ["vxlan", "host-gw"] {
        let (success, table) = interop_of(backend, backend, crate::harness::FLANNELD, "");
        assert!(success, "{backend}: {table}");
        assert_eq!(table.lines().filter(|line| line.ends_with(" ok")).count(), 11, "{table}");
    }
}

#[test]
fn every_case_of_interop_passes_with_the_stock_emulator() {
    let (success, table) = interop("emulator", "stock-emulator", "");
    assert!(success, "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with(" ok")).count(), 11, "{table}");
}

#[test]
fn interop_with_what_is_no_flanneld_fails_and_shows_where() {
    let (success, table) = interop("none", "/bin/false", "");
    assert!(!success, "{table}");
    let count = |verdict: &str| table.lines().filter(|line| line.contains(verdict)).count();
    assert_eq!((count("FAILED: "), count(" not run")), (3, 8), "{table}");
}

/// A lab of three nodes, of which the second is the emulator of a stock node.
fn mixed_lab(topic: &str) -> Lab {
    let daemons = BTreeMap::from([("n2".to_owned(), Daemon::stock_emulator(FLANNEL_LAB))]);
    Lab::up(LabSpec { daemons, ..spec(topic, 3) }).unwrap()
}

#[test]
fn traffic_with_a_stock_node_is_whole_both_ways() {
    let lab = mixed_lab("stock");
    for (from, to) in [(0, 1), (1, 0), (1, 2)] {
        let (from, to) = (pod(&lab, from), pod(&lab, to));
        assert_tcp_is_whole(&lab, from, to, 8);
        // A stock receiver cuts what is longer than its buffer: no datagram may be.
        assert_udp_is_whole(&lab, from, to, &[16, 36, 1444, 1445, 4000]);
    }
}

#[test]
fn longest_packet_passes_a_stock_node_uncut() {
    let lab = mixed_lab("uncut");
    let payload_len = overlay(&lab.nodes()[0]).env.mtu - 28;
    for (from, to) in [(0, 1), (1, 0)] {
        let args = format!("-c 3 -i 0.1 -W 2 -M do -s {payload_len}");
        let (reached, said) = ping(pod(&lab, from), &args, pod(&lab, to).addr);
        assert!(reached && said.contains(" 0% packet loss"), "{said}");
        assert!(said.contains("ttl=60 "), "{said}");
    }
}

#[test]
fn ours_takes_the_place_of_a_stock_node_and_back() {
    let mut lab = mixed_lab("swap");
    let before = overlay(&lab.nodes()[1]).clone();
    for daemon in [Daemon::flanneld(crate::harness::FLANNELD), Daemon::stock_emulator(FLANNEL_LAB)]
    {
        let node = &mut lab.nodes_mut()[1];
        assert!(node.terminate().unwrap().success());
        node.set_daemon(daemon);
        node.start().unwrap();
        assert_eq!(*node.wait_ready().unwrap(), before);
        lab.wait_reachable().unwrap();
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    }
}
