//! XDP on real frames: what holds for tc holds for it, and it comes and goes with the daemon.

use std::thread;

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use super::{
    assert_nothing_dropped, assert_rules_hold, count, is_active, stats, wait_for_it,
    wait_for_sparse,
};
use crate::harness::{
    FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, etcdctl, eventually, ping, pod, spec,
};

fn spec_of_xdp(topic: &str) -> LabSpec {
    let daemon = Daemon::flanneld(FLANNELD).with("--fast-path=xdp --ip-masq");
    LabSpec { daemon, frames_only: true, ..spec(topic, 2) }
}

/// Whether a node's `eth0` has an XDP program at its driver.
fn has_xdp(node: &Node) -> bool {
    let shown = node.netns().ip("link show eth0").unwrap();
    assert!(!shown.contains("xdpgeneric"), "{shown}");
    shown.contains(" xdp")
}

#[test]
fn gro_merges_what_xdp_takes_and_the_host_sees_it_on_the_overlay_device() {
    let mut lab = Lab::up(spec_of_xdp("xdp")).unwrap();
    wait_for_it(&lab);
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 32);
    let stats = stats(&lab.nodes()[1]);
    let merged = stats["merged"].as_u64().unwrap();
    // Each counts as the packets that it holds.
    assert!(merged > 500 && stats["xdp"]["packets"] == stats["ingress"]["packets"], "{stats}");
    assert!(stats["xdp"]["packets"].as_u64().unwrap() > 3 * merged, "{stats}");

    // From the host itself, whose address is masqueraded.
    let (a, to) = (&lab.nodes()[0], pod(&lab, 1).addr);
    let before = count(a, "ingress", "packets");
    a.netns()
        .tool("ping")
        .words("-n -c 1 -W 5 -I 192.168.64.11")
        .arg(to.to_string())
        .run()
        .unwrap();
    assert!(count(a, "ingress", "packets") > before);

    // Leases that come and go cost no packet.
    let (from, to) = (pod(&lab, 0).clone(), pod(&lab, 1).addr);
    let pings = thread::spawn(move || ping(&from, "-q -c 400 -i 0.002", to));
    let mut number = 0;
    while !pings.is_finished() {
        let key = format!("/coreos.com/network/subnets/10.5.{}.0-24", 250 + number % 5);
        let lease = r#"{"PublicIP":"192.168.64.250","BackendType":"udp","BackendData":{"KernelReceive":true}}"#;
        etcdctl(lab.etcd(), &["put", &key, lease]);
        etcdctl(lab.etcd(), &["del", &key]);
        number += 1;
    }
    let (_, said) = pings.join().unwrap();
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert!(number > 2, "{number}");

    // A path that is narrower than the link, towards which tc sends nothing that is too long.
    let a = &lab.nodes()[0];
    a.netns().ip("route add 192.168.64.12/32 dev eth0 mtu 1300").unwrap();
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 2);
    a.netns().ip("route del 192.168.64.12/32").unwrap();
    assert_nothing_dropped(&lab);
    assert_rules_hold(&lab);
}

#[test]
fn xdp_goes_with_its_daemon_and_comes_again_with_its_devices() {
    let mut lab = Lab::up(spec_of_xdp("xdp-life")).unwrap();
    wait_for_it(&lab);
    for accident in ["link del flannel0", "link set eth0 address 02:00:00:00:00:77"] {
        lab.nodes()[0].netns().ip(accident).unwrap();
        for node in lab.nodes() {
            node.netns().ip("neigh flush dev eth0").unwrap();
        }
        eventually("XDP takes what is sent to the new address", || {
            let before = count(&lab.nodes()[0], "xdp", "packets");
            ping(pod(&lab, 1), "-c 1 -W 1", pod(&lab, 0).addr).0
                && count(&lab.nodes()[0], "xdp", "packets") > before
        });
        assert_tcp_is_whole(&lab, pod(&lab, 1), pod(&lab, 0), 4);
    }
    assert_nothing_dropped(&lab);
    for is_killed in [true, false] {
        let node = &mut lab.nodes_mut()[1];
        assert!(has_xdp(node));
        if is_killed {
            node.kill();
        } else {
            assert!(node.terminate().unwrap().success());
        }
        eventually("XDP goes with the process", || !has_xdp(node));
        node.netns().tool("ping").words("-c 1 -W 5 192.168.64.11").run().unwrap();
        node.start().unwrap();
        node.wait_ready().unwrap();
        wait_for_it(&lab);
    }
}

#[test]
fn xdp_program_of_somebody_else_stays_and_one_line_names_it() {
    let mut lab = Lab::create(spec_of_xdp("xdp-taken")).unwrap();
    // It lets everything pass: nothing tells it which packets are ours.
    let object = include_bytes!("../../../src/dataplane/fast_path/bpf/fast_path.bpf.o");
    let mut other = Ebpf::load(object).unwrap();
    let program: &mut Xdp = other.program_mut("fast_xdp").unwrap().try_into().unwrap();
    program.load().unwrap();
    let attach = || Ok(program.attach("eth0", XdpMode::Driver).unwrap());
    lab.nodes()[1].netns().enter(attach).unwrap();
    let shown = lab.nodes()[1].netns().ip("link show eth0").unwrap();

    lab.start_all().unwrap();
    lab.wait_reachable().unwrap();
    let (a, b) = (&lab.nodes()[0], &lab.nodes()[1]);
    eventually("the fast path is on at the other", || is_active(a));
    wait_for_sparse(b, "eth0 carries single frames");
    let hook = stats(b)["hooks"][3].clone();
    assert_eq!(hook["name"], "xdp");
    assert!(hook["reason"].as_str().unwrap().contains("(fast_xdp) of somebody else"), "{hook}");
    assert_eq!(b.log_tail(1000).matches("of somebody else").count(), 1);
    assert_eq!(b.netns().ip("link show eth0").unwrap(), shown);
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    assert_udp_is_whole(&lab, pod(&lab, 1), pod(&lab, 0), &[64, 1400]);
}
