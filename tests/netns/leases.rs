//! Leases that are created, deleted and contested.

use std::collections::HashSet;
use std::time::Duration;

use twill::lab::network::daemon::Daemon;
use twill::lab::{Lab, LabSpec};

use crate::harness::{FLANNELD, eventually, overlay, ping, pod, spec, up};

#[test]
fn thirty_nodes_that_start_at_once_get_thirty_subnets() {
    let mut lab = Lab::create(spec("thirty", 30)).unwrap();
    lab.start_all().unwrap();
    let subnets: HashSet<_> = lab.nodes().iter().map(|node| overlay(node).env.subnet).collect();
    assert_eq!(subnets.len(), 30);
    let leases = lab.etcd().leases().unwrap();
    let keys: HashSet<_> = leases.into_iter().map(|(subnet, _)| subnet).collect();
    let expected: HashSet<_> = lab.nodes().iter().map(|node| overlay(node).env.key()).collect();
    assert_eq!(keys, expected);
    for (from, to) in [(0, 29), (14, 7), (29, 0)] {
        eventually("the pods to reach each other", || {
            ping(pod(&lab, from), "-c 1 -W 1", pod(&lab, to).addr).0
        });
    }
}

#[test]
fn race_for_the_last_subnets_ends_with_one_each() {
    // Three subnets for three nodes: every one starts with the same few candidates.
    let config = r#"{"Network":"10.5.0.0/22","SubnetLen":24}"#.to_owned();
    let lab = Lab::up(LabSpec { config: Some(config), ..spec("race", 3) }).unwrap();
    let subnets: HashSet<_> = lab.nodes().iter().map(|node| overlay(node).env.subnet).collect();
    assert_eq!(subnets.len(), 3);
}

#[test]
fn lease_is_written_as_stock_writes_it() {
    let data = r#","BackendData":{"AnySourcePort":true,"HostID":"HOST","KernelReceive":true}"#;
    for (flags, addition) in [("--source-ports=shared", ""), ("", data)] {
        let daemon = Daemon::flanneld(FLANNELD).with(flags);
        let mut lab = Lab::up(LabSpec { daemon, ..spec("value", 1) }).unwrap();
        let (addr, key) = (lab.nodes()[0].addr(), overlay(&lab.nodes()[0]).env.key());
        let value = format!(r#"{{"PublicIP":"{addr}","PublicIPv6":null{addition}}}"#);
        // The host's name, and the number of this boot and network.
        eventually(&value, || {
            let [(found_key, mut text)] = lab.etcd().leases().unwrap().try_into().unwrap();
            if let Some((start, rest)) = text.split_once(r#""HostID":""#) {
                let (host, end) = rest.split_once('"').unwrap();
                let (_, number) = host.rsplit_once('/').unwrap();
                assert!(number.len() == 16 && u64::from_str_radix(number, 16).is_ok(), "{host}");
                text = format!(r#"{start}"HostID":"HOST"{end}"#);
            }
            (found_key, text) == (key.clone(), value.clone())
        });
    }
}

#[test]
fn deleted_lease_takes_the_route_and_ends_its_daemon_if_it_is_to() {
    let mut lab = Lab::up(exiting("deleted", 3)).unwrap();
    let lost = overlay(&lab.nodes()[1]).env.key();
    assert!(lab.etcd().delete_lease(&lost).unwrap());
    let status = lab.nodes_mut()[1].wait_end(Duration::from_secs(60)).unwrap();
    assert_eq!(status.code(), Some(1));
    eventually("the peer to answer with net unreachable", || {
        let (_, said) = ping(pod(&lab, 0), "-c 1 -W 1", pod(&lab, 1).addr);
        said.contains("Destination Net Unreachable")
    });
    let (reached, said) = ping(pod(&lab, 0), "-c 1 -W 2", pod(&lab, 2).addr);
    assert!(reached, "{said}");
}

#[test]
fn deleted_lease_is_acquired_again_and_the_route_comes_back() {
    let mut lab = up("again", 2);
    let lost = overlay(&lab.nodes()[1]).env.key();
    assert!(lab.etcd().delete_lease(&lost).unwrap());
    eventually("the lease to be there again", || {
        lab.etcd().leases().unwrap().iter().any(|(key, _)| *key == lost)
    });
    lab.wait_reachable().unwrap();
}

#[test]
fn node_comes_back_after_its_lease_was_deleted() {
    let mut lab = Lab::up(exiting("comeback", 2)).unwrap();
    let lost = overlay(&lab.nodes()[1]).env;
    assert!(lab.etcd().delete_lease(&lost.key()).unwrap());
    let node = &mut lab.nodes_mut()[1];
    node.wait_end(Duration::from_secs(60)).unwrap();
    node.start().unwrap();
    assert_eq!(node.wait_ready().unwrap().env, lost, "subnet.env names the subnet to take again");
    lab.wait_reachable().unwrap();
}

/// A lab whose nodes exit when their lease is deleted.
fn exiting(topic: &str, num_nodes: usize) -> LabSpec {
    let daemon = Daemon::flanneld(FLANNELD).with("--on-lease-loss=exit");
    LabSpec { daemon, ..spec(topic, num_nodes) }
}
