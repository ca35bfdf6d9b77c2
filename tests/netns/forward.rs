//! Packets between pods.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use twill::lab::network::daemon::Daemon;
use twill::lab::traffic::flood::Flood;
use twill::lab::traffic::{Report, tcp, udp};
use twill::lab::{Lab, LabSpec};

use crate::flows::{self, Plan};
use crate::harness::{
    FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, eventually, generator, overlay, ping, pod,
    spec, up,
};

#[test]
fn every_pod_exchanges_tcp_and_udp_with_every_other() {
    let lab = up("pairs", 3);
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let (from, to) = (pod(&lab, from), pod(&lab, to));
            assert_tcp_is_whole(&lab, from, to, 8);
            assert_udp_is_whole(&lab, from, to, &[16, 36, 1000, 1444, 1445, 4000]);
        }
    }
}

#[test]
fn pods_are_four_hops_apart_as_with_stock() {
    let lab = up("hops", 2);
    let (reached, said) = ping(pod(&lab, 0), "-c 1 -W 2", pod(&lab, 1).addr);
    assert!(reached && said.contains("ttl=60 "), "{said}");
}

#[test]
fn each_end_of_the_overlay_tells_that_a_ttl_ended_there() {
    let lab = up("ttl", 2);
    // Hop 1 is the pod's own node; then flanneld there, then flanneld at the far end.
    for (ttl, index) in [(2, 0), (3, 1)] {
        let (_, said) = ping(pod(&lab, 0), &format!("-c 1 -W 2 -t {ttl}"), pod(&lab, 1).addr);
        let tun_addr = overlay(&lab.nodes()[index]).env.subnet.network();
        assert!(said.contains(&format!("From {tun_addr} ")), "ttl {ttl}: {said}");
        assert!(said.contains("Time to live exceeded"), "ttl {ttl}: {said}");
    }
}

#[test]
fn node_that_joins_late_reaches_all_and_is_reached() {
    let mut lab = up("late", 2);
    let node = lab.add_node().unwrap();
    node.start().unwrap();
    node.wait_ready().unwrap();
    node.attach_pods(1).unwrap();
    lab.wait_reachable().unwrap();
    assert_tcp_is_whole(&lab, pod(&lab, 2), pod(&lab, 0), 4);
}

/// A link so slow that the socket's send buffer stays full: the worker then waits for it, and its
/// TUN queue overflows.
#[test]
fn full_send_buffer_does_not_stall_what_arrives() {
    let daemon = Daemon::flanneld(FLANNELD).with("--workers=1 --source-ports=shared");
    let lab = Lab::up(LabSpec { daemon, ..spec("slow", 2) }).unwrap();
    let (node, from, to) = (&lab.nodes()[0], pod(&lab, 0), pod(&lab, 1));
    let slow = "qdisc add dev eth0 root tbf rate 1mbit burst 3000 limit 100mb";
    node.netns().tool("tc").words(slow).run().unwrap();
    let _flood = Flood::start(&from.netns, &to.netns, to.addr, 1400).unwrap();
    eventually("the TUN queue to overflow", || {
        let json = node.netns().ip(&format!("-j -s link show {}", overlay(node).device)).unwrap();
        let links: Value = serde_json::from_str(&json).unwrap();
        links[0]["stats64"]["tx"]["dropped"].as_u64().unwrap() > 1000
    });
    let plan = Plan { num_flows: 20, num_datagrams: 100, num_senders: 1 };
    let report = flows::run(to, from, plan);
    assert!(report.corrupt == 0 && report.overtaken.is_empty(), "{report:?}");
    assert!(report.received * 10 >= report.sent * 9, "{report:?}");
}

#[test]
fn half_a_minute_of_mixed_traffic_arrives_whole() {
    let time = Duration::from_secs(30);
    let lab = Lab::up(spec("mixed", 3)).unwrap();
    let servers: Vec<_> = (0..3)
        .map(|index| generator().serve(&pod(&lab, index).netns, &lab.names().dir()).unwrap())
        .collect();
    let start = Instant::now();
    thread::scope(|scope| {
        let lab = &lab;
        let flow = |from: usize, to: usize, up: u64, down: u64| {
            let plan = tcp::Plan { up, down, time };
            scope.spawn(move || generator().tcp(&pod(lab, from).netns, pod(lab, to).addr, plan))
        };
        let flows =
            [flow(0, 1, 32 << 20, 1000), flow(0, 1, 1000, 8 << 20), flow(2, 0, 9 << 20, 5 << 20)];
        let datagrams = |from: usize, to: usize, sizes: &[usize]| {
            let plan = udp::Plan { sizes: sizes.to_vec(), count: u64::MAX, time };
            scope.spawn(move || generator().udp(&pod(lab, from).netns, pod(lab, to).addr, &plan))
        };
        let datagrams = [
            datagrams(1, 0, &[36]),
            datagrams(1, 2, &[1444, 16, 700]),
            datagrams(2, 1, &[9000, 3000, 1445]),
        ];
        let mut num_lost_pings = 0;
        while start.elapsed() < time {
            let (reached, _) = ping(pod(lab, 2), "-q -c 5 -i 0.1 -W 1", pod(lab, 1).addr);
            num_lost_pings += u32::from(!reached);
        }
        assert_eq!(num_lost_pings, 0, "whole runs of pings without an answer");
        for flow in flows {
            let report = flow.join().unwrap().unwrap();
            println!("{report:?}");
            assert_eq!((report.answered, report.corrupt), (report.sent, 0), "{report:?}");
        }
        for datagrams in datagrams {
            let report: Report = datagrams.join().unwrap().unwrap();
            println!("{report:?}");
            // A full queue may drop a datagram while TCP runs at full speed; none may be corrupted.
            assert_eq!(report.corrupt, 0, "{report:?}");
            assert!(report.answered * 10 >= report.sent * 9, "{report:?}");
        }
    });
    drop(servers);
}
