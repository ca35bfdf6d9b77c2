//! Order within a flow, over many flows, several workers, and devices with several queues.
//!
//! Flows here have one direction. A TUN moves a flow to the queue through which its answers come
//! (`tun_flow_update` in drivers/net/tun.c), and packets in the old queue may then be overtaken:
//! with answers to every fourth datagram, one or two of 18,000 were seen out of order.
//!
//! Each direction has its own pods, because of fragments. The kernel finds no ports in them,
//! so all fragments between two addresses are one flow, in both directions: between the same two
//! pods, the fragments of one direction would be the answers to those of the other.

use serde_json::Value;
use twill::dataplane::ingress::gro_item::MAX_SEGMENTS;
use twill::lab::host::netns::Netns;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use crate::fast_path;
use crate::flows::{self, Plan};
use crate::harness::{FLANNELD, overlay, spec, workers};

const PLAN: Plan = Plan { num_flows: 300, num_datagrams: 60, num_senders: 4 };

fn lab(topic: &str, flags: &str) -> Lab {
    // Pinned, because the kernel keeps no order between the cores of a thread that moves.
    let daemon = Daemon::flanneld(FLANNELD).with("--workers=4 --pin-workers").with(flags);
    Lab::up(LabSpec { daemon, ..two_nodes(topic) }).unwrap()
}

/// One pod on each node for each direction.
fn two_nodes(topic: &str) -> LabSpec {
    LabSpec { num_pods: 2, ..spec(topic, 2) }
}

/// Workers that have carried packets, in one direction.
fn num_busy(node: &Node, direction: &str) -> usize {
    let is_busy = |worker: &Value| worker[direction]["packets"].as_u64() > Some(100);
    workers(node).iter().filter(|worker| is_busy(worker)).count()
}

/// Everything that daemons, devices and IP stacks of the lab count as lost.
fn num_lost(lab: &Lab) -> u64 {
    let pods = lab.nodes().iter().flat_map(|node| node.pods()).map(|pod| &pod.netns);
    let nodes = lab.nodes().iter().map(Node::netns);
    let all = pods.chain(nodes).chain([lab.underlay().netns()]);
    all.map(|netns| lost_by_devices(netns) + lost_by_stack(netns)).sum::<u64>()
        + lab.nodes().iter().flat_map(workers).map(lost_by_worker).sum::<u64>()
}

fn lost_by_worker(worker: Value) -> u64 {
    let drops = ["egress", "ingress"].map(|direction| worker[direction]["drops"].clone());
    let drops = drops.iter().flat_map(|drops| drops.as_object().unwrap().values());
    let drops = drops.map(|num| num.as_u64().unwrap()).sum::<u64>();
    drops + worker["queue_overflows"].as_u64().unwrap()
}

fn lost_by_devices(netns: &Netns) -> u64 {
    let links: Value = serde_json::from_str(&netns.ip("-j -s link show").unwrap()).unwrap();
    let dropped = |link: &Value| {
        ["rx", "tx"]
            .map(|way| link["stats64"][way]["dropped"].as_u64().unwrap())
            .iter()
            .sum::<u64>()
    };
    links.as_array().unwrap().iter().map(dropped).sum()
}

/// Datagrams that were not reassembled, and those that a socket had no room for.
fn lost_by_stack(netns: &Netns) -> u64 {
    let counters = netns.tool("nstat").words("-a -s -z -j").run().unwrap();
    let counters: Value = serde_json::from_str(&counters).unwrap();
    let lost = ["IpReasmFails", "UdpRcvbufErrors"];
    lost.iter().map(|name| counters["kernel"][name].as_u64().unwrap()).sum()
}

/// Runs the plan in both directions at once, each between two pods of its own.
fn assert_in_order(lab: &Lab, plan: Plan) {
    for pod in lab.nodes().iter().flat_map(Node::pods) {
        // By default the kernel gives a datagram up when 64 fragments of others come between its
        // own, as happens when its sender has to wait for a core half-way.
        pod.netns.sysctl("net.ipv4.ipfrag_max_dist=0").unwrap();
    }
    let lost_before = num_lost(lab);
    let [left, right] = [0, 1].map(|node| lab.nodes()[node].pods());
    let reports = std::thread::scope(|scope| {
        [(&left[0], &right[0]), (&right[1], &left[1])]
            .map(|(from, to)| scope.spawn(move || flows::run(from, to, plan)))
            .map(|running| running.join().unwrap())
    });
    let lost = num_lost(lab) - lost_before;
    for report in reports {
        println!("{report:?}, {lost} packets lost");
        assert!(report.corrupt == 0 && report.overtaken.is_empty(), "{report:?}");
        // A device may count a superpacket as one.
        let missing = (report.sent - report.received) as u64;
        assert!(missing <= lost * MAX_SEGMENTS as u64, "{report:?}, {lost} lost");
    }
}

#[test]
fn flows_with_source_ports_of_their_own_keep_their_order() {
    let lab = lab("order", "");
    fast_path::wait_for_it(&lab);
    assert_in_order(&lab, PLAN);
    for node in lab.nodes() {
        // Each flow began in the kernel and went on to the workers.
        let by_kernel = fast_path::count(node, "egress", "packets");
        assert!(by_kernel > PLAN.num_flows as u64, "{by_kernel} packets of {}", node.name());
        let busy = ["egress", "ingress"].map(|direction| num_busy(node, direction));
        assert!(busy.iter().all(|num| *num > 1), "{busy:?} workers of {}", node.name());
    }
}

#[test]
fn flows_that_share_a_source_port_keep_their_order() {
    let lab = lab("order-shared", "--source-ports=shared");
    assert_in_order(&lab, PLAN);
    for node in lab.nodes() {
        let busy = ["egress", "ingress"].map(|direction| num_busy(node, direction));
        assert!(busy[0] > 1 && busy[1] == 1, "{busy:?} workers of {}", node.name());
    }
}

#[test]
fn links_with_several_queues_that_join_and_cut_frames_keep_the_order() {
    let lab = Lab::up(LabSpec {
        daemon: Daemon::flanneld(FLANNELD).with("--workers=4 --pin-workers"),
        frames_only: true,
        ..two_nodes("order-queues")
    });
    let lab = lab.unwrap();
    let num_queues = std::thread::available_parallelism().unwrap().get();
    for node in lab.nodes() {
        let ethtool = |words: &str| node.netns().tool("ethtool").words(words).run().unwrap();
        ethtool(&format!("-L eth0 rx {num_queues} tx {num_queues}"));
        ethtool("-K eth0 gro on rx-udp-gro-forwarding on");
        assert!(overlay(node).env.mtu > 1400);
    }
    assert_in_order(&lab, PLAN);
}
