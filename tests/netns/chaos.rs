//! etcd fails in many ways under traffic: no packet is lost, the daemons use little CPU and log
//! little, and they learn new leases as soon as etcd answers again.

mod cluster;
mod observer;
pub mod stream;

use std::fs;
use std::thread;
use std::time::Duration;

use twill::lab::host::process::Signal;
use twill::lab::host::wait::wait_for;
use twill::lab::network::DEFAULT_CONFIG;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use self::cluster::Cluster;
use self::observer::{Observer, log};
use self::stream::Stream;
use crate::harness::{FLANNELD, etcdctl, eventually, overlay, ping, pod, spec, up};

/// Least length of an outage: long enough for so many attempts that a busy loop would show.
const OUTAGE: Duration = Duration::from_secs(3);

/// Time within which all daemons learn new leases: a connection that hangs is closed after 15 s, and
/// attempts are up to 5 s apart.
const CONVERGED: Duration = Duration::from_secs(60);

/// The lease of a node that does not exist, in the subnet `10.5.<number>.0/24`.
const STRANGER: &str = r#"{"PublicIP":"192.168.64.250"}"#;

#[test]
fn no_outage_of_etcd_costs_a_packet() {
    let mut lab = up("chaos", 2);

    outage(&mut lab, "etcd killed", |lab, restore| match restore {
        None => lab.etcd().stop(),
        Some(stranger) => {
            lab.etcd().start_again().unwrap();
            put(lab, stranger);
        }
    });

    outage(&mut lab, "etcd frozen", |lab, restore| match restore {
        None => lab.etcd().id().signal(Signal::SIGSTOP),
        Some(stranger) => {
            lab.etcd().id().signal(Signal::SIGCONT);
            put(lab, stranger);
        }
    });

    outage(&mut lab, "one node cut off, silently", |lab, restore| match restore {
        None => cut_off(&lab.nodes()[0], "drop"),
        Some(stranger) => {
            put(lab, stranger);
            join_again(&lab.nodes()[0]);
        }
    });

    outage(&mut lab, "one node refused, history compacted", |lab, restore| match restore {
        None => {
            cut_off(&lab.nodes()[0], "reject with tcp reset");
            put(lab, 91);
            remove(lab, 91);
        }
        Some(stranger) => {
            put(lab, stranger);
            let revision = revision(lab);
            etcdctl(lab.etcd(), &["compaction", &revision]);
            join_again(&lab.nodes()[0]);
        }
    });

    let (data, backup) = (etcd_dir(&lab, "data"), etcd_dir(&lab, "backup"));
    outage(&mut lab, "data lost", |lab, restore| match restore {
        None => {
            lab.etcd().stop();
            fs::rename(&data, &backup).unwrap();
        }
        Some(stranger) => {
            lab.etcd().start_again().unwrap();
            lab.etcd().put_config(DEFAULT_CONFIG).unwrap();
            put(lab, stranger);
        }
    });
    assert_leases_are_back(&mut lab);

    outage(&mut lab, "data restored", |lab, restore| match restore {
        None => {
            lab.etcd().stop();
            fs::remove_dir_all(&data).unwrap();
            fs::rename(&backup, &data).unwrap();
        }
        Some(stranger) => {
            lab.etcd().start_again().unwrap();
            put(lab, stranger);
        }
    });
    assert_leases_are_back(&mut lab);
}

/// Breaks something under traffic, and repairs it: `act` is called with `None` for the first, and
/// with the number of a stranger, whose lease it must write during the outage, for the second.
fn outage(lab: &mut Lab, what: &str, mut act: impl FnMut(&mut Lab, Option<u8>)) {
    let stream = Stream::start(pod(lab, 0), pod(lab, 1));
    let stranger = unused(lab);
    act(lab, None);
    let observers: Vec<Observer> = lab.nodes().iter().map(Observer::start).collect();
    thread::sleep(OUTAGE);
    for observer in &observers {
        observer.assert_idle(what);
    }
    act(lab, Some(stranger));
    assert_converged(lab, what, stranger);
    for (observer, node) in observers.iter().zip(lab.nodes()) {
        observer.assert_terse(node, what);
    }
    let tally = stream.end();
    println!("{what}: {tally:?}");
    assert!(tally.sent > 10, "{what}: {tally:?}");
    assert_eq!((tally.lost, tally.corrupt), (0, 0), "{what}: {tally:?}");
}

/// Every daemon learns the stranger's lease.
fn assert_converged(lab: &Lab, what: &str, stranger: u8) {
    let line = format!("Subnet added: 10.5.{stranger}.0/24");
    for node in lab.nodes() {
        let what = format!("{what}: {} to log {line}", node.name());
        wait_for(&what, CONVERGED, || Ok(log(node).contains(&line).then_some(()))).unwrap();
    }
}

fn assert_leases_are_back(lab: &mut Lab) {
    let keys: Vec<String> = lab.nodes().iter().map(|node| overlay(node).env.key()).collect();
    for key in keys {
        eventually(&format!("{key} to be leased"), || {
            lab.etcd().leases().unwrap().iter().any(|(leased, _)| *leased == key)
        });
    }
}

/// A third byte of a subnet that no node has, nor any earlier stranger.
fn unused(lab: &Lab) -> u8 {
    let logs: String = lab.nodes().iter().map(log).collect();
    let is_free = |number: &u8| !logs.contains(&format!(" 10.5.{number}.0/24"));
    (100..=255).find(is_free).unwrap()
}

fn put(lab: &mut Lab, stranger: u8) {
    etcdctl(lab.etcd(), &["put", &key(stranger), STRANGER]);
}

fn remove(lab: &mut Lab, stranger: u8) {
    etcdctl(lab.etcd(), &["del", &key(stranger)]);
}

fn key(stranger: u8) -> String {
    format!("/coreos.com/network/subnets/10.5.{stranger}.0-24")
}

/// The revision that etcd is at.
fn revision(lab: &mut Lab) -> String {
    let json = etcdctl(lab.etcd(), &["get", "/", "-w", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["header"]["revision"].to_string()
}

/// Applies `verdict` to the node's packets to etcd, and not to forwarded ones.
fn cut_off(node: &Node, verdict: &str) {
    let rules = format!(
        "add table ip chaos\n\
         add chain ip chaos output {{ type filter hook output priority 0; }}\n\
         add rule ip chaos output tcp dport 2379 {verdict}\n"
    );
    node.netns().tool("nft").words("-f -").stdin(rules).run().unwrap();
}

fn join_again(node: &Node) {
    node.netns().tool("nft").words("delete table ip chaos").run().unwrap();
}

fn etcd_dir(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.names().dir().join("etcd").join(name)
}

#[test]
fn frozen_etcd_keeps_no_node_down_that_ran_before_and_none_for_ever() {
    let mut lab = up("frozen", 2);
    let state = lab.nodes()[1].subnet_file().with_extension("state.json");
    eventually("the peer to be remembered", || {
        fs::read_to_string(&state).is_ok_and(|text| text.contains("192.168.64.11"))
    });
    lab.add_node().unwrap();
    lab.etcd().id().signal(Signal::SIGSTOP);

    let before = overlay(&lab.nodes()[1]).clone();
    let [_, known, fresh] = lab.nodes_mut() else { panic!() };
    fresh.start().unwrap();
    known.kill();
    known.start().unwrap();
    assert_eq!(*known.wait_ready().unwrap(), before);
    eventually("the peer to be reached", || ping(pod(&lab, 1), "-c 1 -W 1", pod(&lab, 0).addr).0);
    assert!(!lab.nodes()[2].subnet_file().exists(), "a node that knows nothing waits");

    lab.etcd().id().signal(Signal::SIGCONT);
    lab.nodes_mut()[2].wait_ready().unwrap();
    lab.nodes_mut()[2].attach_pods(1).unwrap();
    lab.wait_reachable().unwrap();
    eventually("the node to settle", || log(&lab.nodes()[1]).contains("is still ours"));
}

#[test]
fn members_of_a_cluster_may_go_in_turn_and_all_at_once() {
    let endpoints = format!("-etcd-endpoints={}", cluster::endpoints());
    let daemon = Daemon::flanneld(FLANNELD).with(&endpoints);
    let mut lab = Lab::create(LabSpec { daemon, ..spec("members", 2) }).unwrap();
    let mut cluster = Cluster::start(&mut lab);
    cluster.ctl(&["put", "/coreos.com/network/config", DEFAULT_CONFIG]);
    lab.start_all().unwrap();
    lab.wait_reachable().unwrap();
    let stream = Stream::start(pod(&lab, 0), pod(&lab, 1));
    let observers: Vec<Observer> = lab.nodes().iter().map(Observer::start).collect();

    for member in 0..cluster::LEN {
        let stranger = unused(&lab);
        cluster.kill(member);
        cluster.ctl(&["put", &key(stranger), STRANGER]);
        assert_converged(&lab, &format!("member {member} killed"), stranger);
        cluster.start_again(member);
    }

    cluster.kill(0);
    cluster.kill(2);
    thread::sleep(OUTAGE);
    for observer in &observers {
        observer.assert_idle("a cluster without a quorum");
    }
    cluster.start_again(0);
    let stranger = unused(&lab);
    cluster.ctl(&["put", &key(stranger), STRANGER]);
    assert_converged(&lab, "quorum regained", stranger);

    for (observer, node) in observers.iter().zip(lab.nodes()) {
        observer.assert_terse(node, "cluster");
    }
    let tally = stream.end();
    assert_eq!((tally.lost, tally.corrupt), (0, 0), "{tally:?}");
}
