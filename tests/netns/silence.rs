//! Peers that do not answer: the log, `/readyz` and `/stats` name them.

use serde_json::Value;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::traffic::probe;
use twill::lab::{Lab, LabSpec};

use crate::harness::{FLANNELD, eventually, overlay, ping, pod, spec, up};

fn log_has(node: &Node, start: &str, peer: &Node, text: &str) -> bool {
    let line = format!("{start} {} ({}) {text}", peer.addr(), overlay(peer).env.subnet);
    node.log_tail(1000).lines().any(|log| log.contains(&line))
}

/// What `/stats` of a node says of a peer.
fn health(node: &Node, peer: &Node) -> Value {
    let json = probe::fetch_health(node.netns(), "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    let addr = peer.addr().to_string();
    let peers = stats["peers"].as_array().unwrap();
    peers.iter().find(|peer| peer["public_ip"] == addr).unwrap().clone()
}

fn problem(node: &Node, peer: &Node) -> String {
    health(node, peer)["problem"].as_str().unwrap_or_default().to_owned()
}

fn warnings(node: &Node) -> String {
    let (status, body) = probe::ask_health(node.netns(), "/readyz").unwrap();
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    body["warnings"].to_string()
}

/// One packet for the pod of each of these nodes, from the first node's pod.
fn knock(lab: &Lab, at: &[usize]) {
    for index in at {
        ping(pod(lab, 0), "-c 1 -W 0.1", pod(lab, *index).addr);
    }
}

#[test]
fn peer_that_is_dead_or_filtered_is_named_until_it_is_heard_again() {
    // A rule in INPUT sees what goes to a socket, not what the kernel takes before that.
    let workers = Daemon::flanneld(FLANNELD).with("--fast-path=off");
    let daemons = [("n3".to_owned(), workers)].into();
    let mut lab = Lab::up(LabSpec { daemons, ..spec("silent", 3) }).unwrap();
    eventually("both peers to be heard", || {
        let [node, peers @ ..] = lab.nodes() else { unreachable!() };
        peers.iter().all(|peer| health(node, peer)["last_heard_seconds"].is_u64())
    });
    let rule = "INPUT -p udp --dport 8285 -j DROP";
    lab.nodes()[2].netns().tool("iptables").words(&format!("-I {rule}")).run().unwrap();
    lab.nodes_mut()[1].kill();
    let [node, dead, filtered] = lab.nodes() else { unreachable!() };
    eventually("the ICMP of the dead peer to be reported", || {
        knock(&lab, &[1, 2]);
        log_has(node, "peer", dead, "cannot be reached: ICMP port unreachable from")
    });
    let text = problem(node, dead);
    assert!(text.contains("nothing listens on UDP 8285 there"), "{text}");
    eventually("the silence of the other to be reported", || {
        knock(&lab, &[2]);
        log_has(node, "peer", filtered, "is silent: ")
    });
    let text = problem(node, filtered);
    assert!(text.contains("none received"), "{text}");
    let text = warnings(node);
    assert!(text.contains("2 peers") && text.contains(&filtered.addr().to_string()), "{text}");

    lab.nodes()[2].netns().tool("iptables").words(&format!("-D {rule}")).run().unwrap();
    let dead = &mut lab.nodes_mut()[1];
    dead.start().unwrap();
    dead.wait_ready().unwrap();
    let [node, dead, filtered] = lab.nodes() else { unreachable!() };
    eventually("both to be heard again", || {
        knock(&lab, &[1, 2]);
        [dead, filtered].iter().all(|peer| log_has(node, "peer", peer, "is heard again, after"))
    });
    assert_eq!((problem(node, dead), problem(node, filtered)), (String::new(), String::new()));
    assert_eq!(warnings(node), "[]");
}

/// A peer to which one-way traffic goes is asked, and answers.
#[test]
fn one_way_traffic_is_no_silence() {
    let lab = up("oneway", 2);
    let [node, peer] = lab.nodes() else { unreachable!() };
    let to = pod(&lab, 1);
    // Nothing in the pod answers, neither to UDP nor to pings.
    to.netns.tool("iptables").words("-I INPUT -j DROP").run().unwrap();
    let start = std::time::Instant::now();
    while start.elapsed().as_secs() < 12 {
        ping(pod(&lab, 0), "-c 1 -W 0.2", to.addr);
        let heard = health(node, peer)["last_heard_seconds"].as_u64().unwrap_or(0);
        assert!(heard < 10, "not heard for {heard} s");
    }
    assert_eq!(problem(node, peer), "");
    assert!(!node.log_tail(1000).contains("is silent"));
}
