//! Labs for tests, and queries that tests make.

use std::net::Ipv4Addr;
use std::process;
use std::time::Duration;

use serde_json::Value;
use twill::lab::host::netns::Netns;
use twill::lab::host::wait::wait_for;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::etcd::Etcd;
use twill::lab::network::node::{Node, Overlay};
use twill::lab::network::pods::Pod;
use twill::lab::network::topology::ETCD_ADDR;
use twill::lab::progress;
use twill::lab::traffic::probe;
use twill::lab::traffic::{Generator, Report, tcp, udp};
use twill::lab::{Lab, LabSpec};

pub const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");
pub const FLANNEL_LAB: &str = env!("CARGO_BIN_EXE_flannel-lab");

/// A lab of `num_nodes` nodes of its own: one pod each, all running our flanneld.
pub fn spec(topic: &str, num_nodes: usize) -> LabSpec {
    let name = format!("t{}-{topic}", process::id());
    progress::mute(); // the runner's lines stay whole
    LabSpec { num_nodes, ..LabSpec::new(name, Daemon::flanneld(FLANNELD)) }
}

/// That lab, started, with every pod reaching every other.
pub fn up(topic: &str, num_nodes: usize) -> Lab {
    Lab::up(spec(topic, num_nodes)).unwrap()
}

/// The same without the fast path: rules of INPUT and captures see what passes the workers only.
pub fn up_on_workers(topic: &str, num_nodes: usize) -> Lab {
    let daemon = Daemon::flanneld(FLANNELD).with("--fast-path=off");
    Lab::up(LabSpec { daemon, ..spec(topic, num_nodes) }).unwrap()
}

pub fn generator() -> Generator {
    Generator { flannel_lab: FLANNEL_LAB.into() }
}

/// The first pod of node `index`, which counts from 0.
pub fn pod(lab: &Lab, index: usize) -> &Pod {
    &lab.nodes()[index].pods()[0]
}

pub fn overlay(node: &Node) -> &Overlay {
    node.overlay().unwrap()
}

/// What `ping` prints when run in the pod with the words of `args`, whether or not it succeeds.
pub fn ping(pod: &Pod, args: &str, to: Ipv4Addr) -> (bool, String) {
    let ping = pod.netns.tool("ping").words("-n").words(args).arg(to.to_string());
    let output = ping.output().unwrap();
    (output.status.success(), output.stdout + &output.stderr)
}

/// What `etcdctl` prints in the namespace of the lab's etcd.
pub fn etcdctl(etcd: &Etcd, args: &[&str]) -> String {
    let etcdctl = etcd.netns().tool("etcdctl").arg(format!("--endpoints={ETCD_ADDR}:2379"));
    args.iter().fold(etcdctl, |tool, arg| tool.arg(arg)).run().unwrap()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(60), || Ok(condition().then_some(()))).unwrap();
}

/// A TCP flow of `megabytes` in each direction at once arrives intact.
pub fn assert_tcp_is_whole(lab: &Lab, from: &Pod, to: &Pod, megabytes: u64) {
    let _server = generator().serve(&to.netns, &lab.names().dir()).unwrap();
    let len = megabytes << 20;
    let plan = tcp::Plan { up: len, down: len, time: Duration::ZERO };
    let report = generator().tcp(&from.netns, to.addr, plan).unwrap();
    assert_eq!((report.answered, report.corrupt), (1, 0), "{report:?}");
}

/// Without other traffic, every datagram of each of `sizes` arrives intact.
pub fn assert_udp_is_whole(lab: &Lab, from: &Pod, to: &Pod, sizes: &[usize]) {
    let _server = generator().serve(&to.netns, &lab.names().dir()).unwrap();
    let (sizes, time) = (sizes.to_vec(), Duration::from_secs(120));
    let report: Report =
        generator().udp(&from.netns, to.addr, &udp::Plan { sizes, count: 500, time }).unwrap();
    let is_whole = (report.answered, report.corrupt) == (500, 0);
    assert!(is_whole, "{report:?}\n{}", counted_losses(lab));
}

/// What IP stacks, devices and workers of the lab have counted, for a message: one of them lost it.
fn counted_losses(lab: &Lab) -> String {
    let pods = lab.nodes().iter().flat_map(Node::pods).map(|pod| &pod.netns);
    let all = pods.chain(lab.nodes().iter().map(Node::netns)).chain([lab.underlay().netns()]);
    let of_netns = |netns: &Netns| {
        let tool = |line: &str| netns.tool("sh").arg("-c").arg(line).output();
        let counters = tool("nstat -as | grep -iE 'err|drop|fail|discard|reasm|frag'; ip -s link");
        format!("{}:\n{}", netns.name(), counters.map_or(String::new(), |it| it.stdout))
    };
    let of_node = |node: &Node| probe::fetch_health(node.netns(), "/stats").unwrap_or_default();
    all.map(of_netns).chain(lab.nodes().iter().map(of_node)).collect::<Vec<_>>().join("\n")
}

/// The conditions of readiness that fail, as the node's `/readyz` has them.
pub fn failing_checks(node: &Node) -> Vec<String> {
    let (status, body) = probe::ask_health(node.netns(), "/readyz").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    let checks = body["checks"].as_object().unwrap();
    let failing = checks.iter().filter(|(_, check)| check["ok"] == false);
    let is_blocked = failing.clone().any(|(_, check)| check["required"] != false);
    let failing: Vec<String> = failing.map(|(name, _)| name.clone()).collect();
    assert_eq!(status, if is_blocked { 503 } else { 200 }, "{failing:?}");
    failing
}

/// The sum of one ingress drop counter over all workers, as the node's `/stats` has it.
pub fn ingress_drops(node: &Node, reason: &str) -> u64 {
    let json = probe::fetch_health(node.netns(), "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    let workers = stats["dataplane"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["ingress"]["drops"][reason].as_u64().unwrap()).sum()
}

/// What a node's `/stats` says of its workers.
pub fn workers(node: &Node) -> Vec<Value> {
    let json = probe::fetch_health(node.netns(), "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    stats["dataplane"]["workers"].as_array().unwrap().clone()
}

/// Packets that flanneld has written to the node's overlay device.
pub fn written_to_tun(node: &Node) -> u64 {
    let device = &overlay(node).device;
    let json = node.netns().ip(&format!("-j -s link show {device}")).unwrap();
    let links: Value = serde_json::from_str(&json).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}
