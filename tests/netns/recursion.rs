//! Leases whose public IP leads to no peer, or into the overlay itself.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use twill::lab::Lab;
use twill::lab::network::backend::Backend;
use twill::lab::network::node::Node;

use crate::harness::{eventually, overlay, ping, pod, up, workers};

/// Packets that the kernel has routed into the node's overlay device.
fn routed_into_overlay(node: &Node) -> u64 {
    let json = node.netns().ip(&format!("-j -s link show {}", overlay(node).device)).unwrap();
    let links: Value = serde_json::from_str(&json).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// The sum of one egress drop counter over all workers.
fn egress_drops(node: &Node, reason: &str) -> u64 {
    workers(node).iter().map(|worker| worker["egress"]["drops"][reason].as_u64().unwrap()).sum()
}

/// Numbers of subnets that no node has.
fn free_subnets(lab: &Lab) -> impl Iterator<Item = u8> + use<> {
    let taken: Vec<_> = lab.nodes().iter().map(|node| overlay(node).env.subnet.network()).collect();
    (1..=254).rev().filter(move |number| !taken.contains(&Ipv4Addr::new(10, 5, *number, 0)))
}

/// How often the node's log has a warning of this lease's key and public IP.
fn num_warnings(node: &Node, key: &str, public_ip: Ipv4Addr) -> usize {
    let (key, public_ip) = (format!("lease {key} names no peer"), format!(" {public_ip} "));
    let log = node.log_tail(1000);
    log.lines().filter(|line| line.contains(&key) && line.contains(&public_ip)).count()
}

/// Datagrams that come back do not loop: a ping causes a few packets, then no more.
fn assert_no_storm(lab: &Lab, to: Ipv4Addr) {
    let node = &lab.nodes()[0];
    let before = routed_into_overlay(node);
    ping(pod(lab, 0), "-c 1 -W 1", to);
    eventually("the overlay device to fall silent", || {
        let num = routed_into_overlay(node);
        thread::sleep(Duration::from_millis(300));
        routed_into_overlay(node) == num
    });
    let num = routed_into_overlay(node) - before;
    assert!(num < 20, "{num} packets of one ping");
}

#[test]
fn public_ip_in_the_overlay_works_by_the_underlay_and_storms_by_no_way() {
    let mut lab = up("recursion", 1);
    let number = free_subnets(&lab).next().unwrap();
    let (key, public_ip) = (format!("10.5.{number}.0-24"), Ipv4Addr::new(10, 5, number, 5));
    let to = Ipv4Addr::new(10, 5, number, 9);

    // The underlay has a more specific route: a peer as any other.
    lab.nodes()[0].netns().ip(&format!("route add {public_ip}/32 dev eth0")).unwrap();
    lab.etcd().put_lease(&key, Backend::Udp, public_ip).unwrap();
    let node = &lab.nodes()[0];
    eventually("the lease to be known", || {
        node.log_tail(1000).contains(&format!("10.5.{number}.0/24"))
    });
    assert_no_storm(&lab, to);
    assert_eq!(num_warnings(node, &key, public_ip), 0);

    // The route is deleted; until we query the kernel again, its datagrams come back.
    node.netns().ip(&format!("route del {public_ip}/32 dev eth0")).unwrap();
    assert_no_storm(&lab, to);
    assert!((1..10).contains(&egress_drops(node, "recursion")), "counted");
    eventually("the warning", || num_warnings(node, &key, public_ip) > 0);
    assert_no_storm(&lab, to);
    let (_, said) = ping(pod(&lab, 0), "-c 1 -W 1", to);
    assert!(said.contains("Destination Net Unreachable"), "no route: {said}");
    assert_eq!(num_warnings(node, &key, public_ip), 1, "logged once");
}

#[test]
fn public_ip_that_is_no_peer_gets_no_route_and_one_warning() {
    let mut lab = up("nopeer", 1);
    let node = &lab.nodes()[0];
    let [a, b, c, d] = node.addr().octets();
    let mut numbers = free_subnets(&lab);
    let mut bad: Vec<(String, Ipv4Addr)> = [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::new(a, b, c, 255), // the link's own broadcast address
        Ipv4Addr::new(a, b, c, d),
        overlay(node).env.subnet.network(),
    ]
    .into_iter()
    .map(|public_ip| (format!("10.5.{}.0-24", numbers.next().unwrap()), public_ip))
    .collect();
    // Typed wrongly: the subnet's own gateway.
    let number = numbers.next().unwrap();
    bad.push((format!("10.5.{number}.0-24"), Ipv4Addr::new(10, 5, number, 1)));
    for (key, public_ip) in &bad {
        lab.etcd().put_lease(key, Backend::Udp, *public_ip).unwrap();
    }
    let node = &lab.nodes()[0];
    for (key, public_ip) in &bad {
        eventually(&format!("a warning of {key} at {public_ip}"), || {
            num_warnings(node, key, *public_ip) == 1
        });
        let to = key.replace("0-24", "9").parse().unwrap();
        assert_no_storm(&lab, to);
        let (_, said) = ping(pod(&lab, 0), "-c 1 -W 1", to);
        assert!(said.contains("Destination Net Unreachable"), "{public_ip}: {said}");
    }
}
