//! What a change of a node makes of its lease.

use std::collections::BTreeMap;

use super::*;
use crate::control::config::kube::AnnotationPrefix;
use crate::control::subnet::kube::annotations::Annotations;
use crate::control::util::test_log::Logs;

fn node(name: &str, cidrs: &[&str], pairs: &[(&str, &str)]) -> Node {
    let prefix: AnnotationPrefix = "flannel.alpha.coreos.com".parse().unwrap();
    let all: BTreeMap<String, String> = [("kube-subnet-manager", "true")]
        .iter()
        .chain(pairs)
        .map(|(name, value)| (prefix.key(name), (*value).to_owned()))
        .collect();
    Node {
        name: name.to_owned(),
        annotations: Annotations::read(all, &prefix),
        pod_cidrs: cidrs.iter().map(|&cidr| cidr.to_owned()).collect(),
        ..Node::default()
    }
}

fn at(name: &str, cidr: &str, ip: &str) -> Node {
    node(name, &[cidr], &[("public-ip", ip)])
}

fn peers() -> Peers {
    let own = Subnets { v4: "10.244.1.0/24".parse().unwrap(), v6: None };
    Peers::new("nodea".to_owned(), own, [192, 0, 2, 1].into())
}

/// Such as `+10.244.2.0/24 of 192.0.2.2` and `-10.244.2.0/24`.
fn texts(events: &[LeaseEvent]) -> Vec<String> {
    let text = |event: &LeaseEvent| match event {
        LeaseEvent::Added(lease) => format!("+{} of {}", lease.subnet, lease.attrs),
        LeaseEvent::Removed(subnet) => format!("-{subnet}"),
    };
    events.iter().map(text).collect()
}

#[test]
fn every_change_of_a_node_is_a_change_of_its_lease() {
    let mut peers = peers();
    let b = at("nodeb", "10.244.2.0/24", "192.0.2.2");
    assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
    assert_eq!(texts(&peers.observe(&b)), [""; 0], "nothing is different");
    let moved = at("nodeb", "10.244.2.0/24", "192.0.2.22");
    assert_eq!(texts(&peers.observe(&moved)), ["+10.244.2.0/24 of 192.0.2.22"]);
    let renumbered = at("nodeb", "10.244.7.0/24", "192.0.2.22");
    let events = texts(&peers.observe(&renumbered));
    assert_eq!(events, ["-10.244.2.0/24", "+10.244.7.0/24 of 192.0.2.22"]);
    let left = node("nodeb", &["10.244.7.0/24"], &[("kube-subnet-manager", "false")]);
    assert_eq!(texts(&peers.observe(&left)), ["-10.244.7.0/24"], "the annotation is gone");
    assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
    assert_eq!(texts(&peers.delete("nodeb")), ["-10.244.2.0/24"]);
}

/// Stock sees a change only if both families have one.
#[test]
fn change_of_one_family_is_seen() {
    let dual = |v4: &str, v6: &str| {
        let cidrs = ["10.244.2.0/24", "fd00:2::/64"];
        node("nodeb", &cidrs, &[("public-ip", v4), ("public-ipv6", v6)])
    };
    let mut peers = peers();
    peers.observe(&dual("192.0.2.2", "fd71::2"));
    assert_eq!(peers.observe(&dual("192.0.2.22", "fd71::2")).len(), 1);
    assert_eq!(peers.observe(&dual("192.0.2.22", "fd71::22")).len(), 1);
    let type_only = |kind| {
        let pairs = [("public-ip", "192.0.2.22"), ("backend-type", kind)];
        node("nodeb", &["10.244.2.0/24", "fd00:2::/64"], &pairs)
    };
    assert_eq!(peers.observe(&type_only("vxlan")).len(), 1);
    assert_eq!(peers.observe(&type_only("host-gw")).len(), 1);
}

#[test]
fn list_without_a_node_removes_it_unless_the_list_is_in_doubt() {
    let mut peers = peers();
    let (b, c) =
        (at("nodeb", "10.244.2.0/24", "192.0.2.2"), at("nodec", "10.244.3.0/24", "192.0.2.3"));
    assert_eq!(peers.replace(&[b.clone(), c.clone()], true).len(), 2);
    assert_eq!(texts(&peers.replace(&[], false)), [""; 0]);
    assert_eq!(texts(&peers.replace(&[c], true)), ["-10.244.2.0/24"]);
    assert_eq!(peers.all().len(), 1);
}

#[test]
fn fault_of_a_peer_is_said_once_and_changes_nothing() {
    let logs = Logs::capture();
    let mut peers = peers();
    peers.observe(&at("nodeb", "10.244.2.0/24", "192.0.2.2"));
    for _ in 0..3 {
        assert_eq!(peers.observe(&at("nodeb", "10.244.2.0/24", "oops")), []);
        assert_eq!(peers.observe(&node("nodec", &["10.244.3.0/24"], &[])), []);
    }
    assert_eq!((peers.all().len(), peers.num_malformed()), (1, 2));
    let line = "Error turning node \"nodeb\" to lease: annotation public-ip is \"oops\"";
    assert_eq!(logs.count(line), 1);
    assert_eq!(logs.count("Error turning node \"nodec\" to lease: it has no annotation"), 1);
    assert_eq!(texts(&peers.delete("nodeb")), ["-10.244.2.0/24"]);
    assert_eq!(peers.num_malformed(), 1);
    peers.observe(&at("nodec", "10.244.3.0/24", "192.0.2.3"));
    assert_eq!((peers.num_malformed(), logs.count("node \"nodec\" reads again")), (0, 1));
}

#[test]
fn of_two_nodes_with_one_range_the_first_has_it_and_the_second_gets_it_after() {
    let mut peers = peers();
    let (b, c) =
        (at("nodeb", "10.244.2.0/24", "192.0.2.2"), at("nodec", "10.244.2.0/24", "192.0.2.3"));
    assert_eq!(texts(&peers.observe(&c)), ["+10.244.2.0/24 of 192.0.2.3"]);
    assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
    assert_eq!(texts(&peers.delete("nodeb")), ["+10.244.2.0/24 of 192.0.2.3"]);
    assert_eq!(texts(&peers.delete("nodec")), ["-10.244.2.0/24"]);
}

#[test]
fn node_with_our_range_or_address_is_a_conflict() {
    let logs = Logs::capture();
    let mut peers = peers();
    assert_eq!(texts(&peers.observe(&at("nodea", "10.244.1.0/24", "192.0.2.1"))), [""; 0]);
    assert_eq!(texts(&peers.observe(&at("nodeb", "10.244.1.0/24", "192.0.2.2"))), [""; 0]);
    assert_eq!(peers.observe(&at("nodec", "10.244.3.0/24", "192.0.2.1")).len(), 1);
    assert_eq!((peers.conflicts().len(), logs.count("conflict with node")), (2, 2));
    peers.follow([192, 0, 2, 9].into());
    peers.delete("nodeb");
    assert_eq!((peers.conflicts().len(), logs.count("is over")), (0, 2));
}
