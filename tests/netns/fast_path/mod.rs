//! The short cut in the kernel: what it carries, what it leaves to the workers, and how it comes and
//! goes.

mod clsact;
mod jumbo;
mod life;
mod mixes;
mod order;
mod programs;
mod seccomp;
mod xdp;

use std::time::Duration;

use serde_json::Value;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::traffic::{probe, round_trips};
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNEL_LAB, FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, eventually, ping, pod, spec,
    up,
};

/// What a node's `/stats` says of the fast path.
fn stats(node: &Node) -> Value {
    let json = probe::fetch_health(node.netns(), "/stats").unwrap();
    serde_json::from_str::<Value>(&json).unwrap()["fast_path"].clone()
}

/// Whether the node says that its kernel carries packets by itself.
pub fn is_active(node: &Node) -> bool {
    let json = probe::fetch_health(node.netns(), "/stats");
    let stats = json.ok().and_then(|json| serde_json::from_str::<Value>(&json).ok());
    stats.is_some_and(|stats| stats["fast_path"]["active"] == true)
}

pub fn count(node: &Node, direction: &str, what: &str) -> u64 {
    stats(node)[direction][what].as_u64().unwrap()
}

/// Packets that the workers carried in one direction.
fn by_workers(node: &Node, direction: &str) -> u64 {
    let workers = crate::harness::workers(node);
    workers.iter().map(|worker| worker[direction]["packets"].as_u64().unwrap()).sum()
}

/// Waits until both nodes carry pings and new flows both ways without their workers.
pub fn wait_for_it(lab: &Lab) {
    for (from, to) in [(0, 1), (1, 0)] {
        eventually("the kernel carries a ping", || carries_ping(lab, from, to));
        // Programs that were just loaded leave flows to the workers at first.
        eventually("the kernel carries a new flow", || carries_new_flow(lab, from, to));
    }
}

/// Whether the sender's kernel carries a request by UDP.
fn carries_new_flow(lab: &Lab, from: usize, to: usize) -> bool {
    let node = &lab.nodes()[from];
    let before = count(node, "egress", "packets");
    let (from, to) = (pod(lab, from), pod(lab, to));
    round_trips::measure(&from.netns, &to.netns, to.addr, Duration::ZERO).unwrap();
    count(node, "egress", "packets") > before
}

/// Waits until the kernel carries what is sparse, and workers bulk TCP for a reason with this in it.
fn wait_for_sparse(node: &Node, expected: &str) {
    let carries = serde_json::json!(["ICMP", "sparse TCP", "sparse UDP"]);
    eventually("the kernel carries what is sparse", || stats(node)["carries"] == carries);
    let stats = stats(node);
    assert!(stats["reason"].as_str().unwrap().contains(expected), "{stats}");
}

/// Whether a ping is answered that the sender's kernel carried.
fn carries_ping(lab: &Lab, from: usize, to: usize) -> bool {
    let node = &lab.nodes()[from];
    let before = count(node, "egress", "packets");
    let answered = ping(pod(lab, from), "-c 1 -W 1", pod(lab, to).addr).0;
    answered && count(node, "egress", "packets") > before
}

fn assert_nothing_dropped(lab: &Lab) {
    for node in lab.nodes() {
        for direction in ["egress", "ingress", "xdp"] {
            assert_eq!(count(node, direction, "dropped"), 0, "{direction} of {}", node.name());
        }
    }
}

#[test]
fn kernel_carries_tcp_icmp_and_sparse_udp_and_the_workers_the_rest() {
    let lab = up("fast", 2);
    wait_for_it(&lab);
    let (a, b) = (&lab.nodes()[0], &lab.nodes()[1]);
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));

    let before = by_workers(a, "egress") + by_workers(b, "egress");
    assert_tcp_is_whole(&lab, from, to, 64);
    assert_tcp_is_whole(&lab, to, from, 8);
    for size in [0, 56, 1400, 1444] {
        let (ok, said) = ping(from, &format!("-c 2 -i 0.2 -M dont -s {size}"), to.addr);
        assert!(ok, "{said}");
    }
    let by_workers_now = by_workers(a, "egress") + by_workers(b, "egress");
    assert!(by_workers_now - before < 50, "{by_workers_now} - {before}: {}", stats(a));
    assert!(count(b, "ingress", "packets") > 64 << 20 >> 11, "{}", stats(b));
    let [num_in, num_out] = ["gpe_in", "gpe_out"].map(|key| stats(b)[key].as_u64().unwrap());
    assert!(num_in > 100 && num_in == num_out, "{num_in} superpackets in, {num_out} out");

    // A packet that finds no link address of the next hop waits for it.
    a.netns().ip("neigh flush dev eth0").unwrap();
    let (ok, said) = ping(from, "-c 1 -W 5", to.addr);
    assert!(ok, "{said}");

    // Fragments, an end of TTL, a packet that is too long, options.
    for (args, expected) in [
        ("-c 2 -i 0.2 -s 4000", true),
        ("-c 2 -i 0.2 -T tsonly", true),
        ("-c 1 -W 2 -t 2", false),
        ("-c 1 -W 2 -M do -s 1460", false),
    ] {
        let (ok, said) = ping(from, args, to.addr);
        assert_eq!(ok, expected, "{args}: {said}");
    }
    let (_, said) = ping(from, "-c 1 -W 2 -t 2", to.addr);
    assert!(said.contains("Time to live exceeded"), "{said}");
    // A burst of UDP, and fragments.
    let before = by_workers(a, "egress");
    assert_udp_is_whole(&lab, from, to, &[64, 1400, 9000]);
    assert!(by_workers(a, "egress") - before >= 500);
    assert_nothing_dropped(&lab);
}

#[test]
fn rules_of_the_host_see_what_the_kernel_carries() {
    let lab = up("fast-rules", 2);
    wait_for_it(&lab);
    assert_rules_hold(&lab);
}

/// Rules for the overlay device count and drop what the second node's kernel carries, also where the
/// host takes packets only from where it would send the answer.
fn assert_rules_hold(lab: &Lab) {
    let b = &lab.nodes()[1];
    b.netns().sysctl("net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.flannel0.rp_filter=1").unwrap();
    let iptables = |args: &str| b.netns().tool("iptables").words(args).run().unwrap();
    iptables("-I FORWARD -i flannel0 -p tcp -j ACCEPT");
    assert_tcp_is_whole(lab, pod(lab, 0), pod(lab, 1), 8);
    let listed = iptables("-nvxL FORWARD");
    let rule = listed.lines().find(|line| line.contains("flannel0"));
    let bytes = rule.and_then(|rule| rule.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap();
    assert!(bytes > 8 << 20, "{listed}");
    iptables("-I FORWARD -i flannel0 -p icmp -j DROP");
    assert!(!ping(pod(lab, 0), "-c 2 -i 0.2 -W 1", pod(lab, 1).addr).0);
}

#[test]
fn nodes_without_it_and_stock_nodes_get_what_their_sockets_understand() {
    let off = Daemon::flanneld(FLANNELD).with("--fast-path=off");
    let stock = Daemon::stock_emulator(FLANNEL_LAB);
    let daemons = [("n2".to_owned(), off), ("n3".to_owned(), stock)].into();
    let lab = Lab::up(LabSpec { daemons, ..spec("fast-mixed", 3) }).unwrap();
    let fast = &lab.nodes()[0];
    eventually("the fast path is on", || is_active(fast));
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
        assert_tcp_is_whole(&lab, pod(&lab, from), pod(&lab, to), 4);
        let (ok, said) = ping(pod(&lab, from), "-c 2 -i 0.2", pod(&lab, to).addr);
        assert!(ok, "{said}");
    }
    for direction in ["egress", "ingress"] {
        assert_eq!(count(fast, direction, "packets"), 0, "{}", stats(fast));
    }
    let off = stats(&lab.nodes()[1]);
    assert_eq!((&off["active"], &off["reason"]), (&false.into(), &"turned off by flag".into()));
}

#[test]
fn workers_carry_bulk_tcp_where_single_frames_arrive_and_the_kernel_what_waits_for_an_answer() {
    let lab = Lab::up(LabSpec { frames_only: true, ..spec("fast-frames", 2) }).unwrap();
    wait_for_it(&lab);
    let (a, b) = (&lab.nodes()[0], &lab.nodes()[1]);
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    let bytes = |node| count(node, "egress", "bytes");
    let by_both = || by_workers(a, "egress") + by_workers(b, "egress");
    let before = (bytes(a), by_both());
    let time = Duration::from_millis(100);
    let times = round_trips::measure_tcp(&from.netns, &to.netns, to.addr, time).unwrap();
    let num = by_both() - before.1;
    assert!(num < 10 && bytes(a) - before.0 > times.len() as u64 * 100, "{num}: {}", stats(a));

    let before = (bytes(a), by_workers(a, "egress"), bytes(b));
    assert_tcp_is_whole(&lab, from, to, 16);
    let now = (bytes(a), by_workers(a, "egress"), bytes(b));
    assert!(now.0 - before.0 < 1 << 20 && now.1 - before.1 > 10_000, "{before:?}, {now:?}");
    assert!(now.2 > before.2, "acknowledgements: {}", stats(b));

    for node in lab.nodes() {
        wait_for_sparse(node, "eth0 carries single frames");
        let said = node.log_tail(1000).matches("; workers bulk TCP: eth0 carries").count();
        assert_eq!(said, 1, "one line says so");
    }
    assert_udp_is_whole(&lab, from, to, &[64, 1400, 9000]);
    assert_nothing_dropped(&lab);
    assert_rules_hold(&lab);
}
