//! Daemons and etcd that stop and start again.

use std::thread;
use std::time::Duration;

use twill::lab::Lab;
use twill::lab::traffic::tcp;

use crate::harness::{assert_tcp_is_whole, generator, overlay, pod, up};

#[test]
fn killed_daemon_keeps_its_subnet_and_traffic_resumes() {
    let mut lab = up("kill", 2);
    let before = overlay(&lab.nodes()[1]).clone();
    let node = &mut lab.nodes_mut()[1];
    node.kill();
    node.start().unwrap();
    assert_eq!(*node.wait_ready().unwrap(), before);
    lab.wait_reachable().unwrap();
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 8);
}

#[test]
fn subnet_is_kept_without_the_subnet_file() {
    let mut lab = up("nofile", 2);
    let before = overlay(&lab.nodes()[0]).clone();
    let node = &mut lab.nodes_mut()[0];
    assert!(node.terminate().unwrap().success());
    std::fs::remove_file(node.subnet_file()).unwrap();
    node.start().unwrap();
    assert_eq!(*node.wait_ready().unwrap(), before, "the lease of our public IP is taken again");
}

#[test]
fn sigterm_ends_the_daemon_cleanly_and_takes_the_device() {
    let mut lab = up("term", 2);
    let device = overlay(&lab.nodes()[0]).device.clone();
    let node = &mut lab.nodes_mut()[0];
    assert_eq!(node.terminate().unwrap().code(), Some(0));
    let links = node.netns().ip("-br link").unwrap();
    assert!(!links.contains(&device), "{links}");
    let routes = node.netns().ip("route").unwrap();
    assert!(!routes.contains("10.5.0.0/16"), "{routes}");
    assert!(node.subnet_file().exists(), "the file stays for the next start");
    let lease = overlay(&lab.nodes()[0]).env.key();
    let leases = lab.etcd().leases().unwrap();
    assert!(leases.iter().any(|(subnet, _)| *subnet == lease), "the lease stays too: {leases:?}");
}

#[test]
fn tcp_connection_outlives_a_restart_of_both_daemons() {
    let mut lab = up("outlive", 2);
    let server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
    let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
    let plan = tcp::Plan { up: 2 << 30, down: 1000, time: Duration::ZERO };
    let flow = thread::spawn(move || generator().tcp(&client, addr, plan));
    for node in lab.nodes_mut() {
        node.terminate().unwrap();
        node.start().unwrap();
        node.wait_ready().unwrap();
    }
    let report = flow.join().unwrap().unwrap();
    assert_eq!((report.answered, report.corrupt), (1, 0), "{report:?}");
    drop(server);
}

#[test]
fn forwarding_does_not_need_etcd_and_new_peers_are_seen_when_it_is_back() {
    let mut lab = up("etcd", 2);
    let server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
    let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
    let plan = tcp::Plan { up: 4 << 20, down: 4 << 20, time: Duration::from_secs(5) };
    let flows = thread::spawn(move || generator().tcp(&client, addr, plan));
    lab.etcd().stop();
    let report = flows.join().unwrap().unwrap();
    assert_eq!((report.answered, report.corrupt), (report.sent, 0), "{report:?}");
    drop(server);
    lab.etcd().start_again().unwrap();
    join_one_more(&mut lab);
}

/// Nodes that were there before reach a node that starts now.
fn join_one_more(lab: &mut Lab) {
    let node = lab.add_node().unwrap();
    node.start().unwrap();
    node.wait_ready().unwrap();
    node.attach_pods(1).unwrap();
    lab.wait_reachable().unwrap();
}

#[test]
fn node_that_starts_before_etcd_waits_for_it() {
    let mut lab = Lab::create(crate::harness::spec("first", 2)).unwrap();
    lab.etcd().stop();
    for node in lab.nodes_mut() {
        node.start().unwrap();
    }
    lab.etcd().start_again().unwrap();
    for node in lab.nodes_mut() {
        node.wait_ready().unwrap();
        node.attach_pods(1).unwrap();
    }
    lab.wait_reachable().unwrap();
}
