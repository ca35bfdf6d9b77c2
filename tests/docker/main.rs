//! flannel's tutorials, as tests: real Docker daemons and real CNI plugins on flanneld's networks.
//!
//! Each node's daemon has the node's network and everything else to itself. Needs root, and Docker
//! and CNI plugins in `target/docker`, where `make` puts them, or on the machine. Daemons,
//! containers and namespaces are removed also when a test fails.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cni;
mod docker;
mod dockerd;
mod image;
mod image_recipe;

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use twill::lab::host::wait::wait_for;
use twill::lab::network::backend::Backend;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

/// A lab of two nodes, each with a flanneld of `backend` running with `flags`, and nothing behind it
/// yet.
fn two_nodes(topic: &str, backend: Backend, flags: &str) -> Lab {
    let name = format!("t{}-{topic}", process::id());
    let flanneld = Daemon::flanneld(env!("CARGO_BIN_EXE_flanneld")).with(flags);
    let config = Some(backend.config());
    let spec = LabSpec { num_nodes: 2, config, ..LabSpec::new(name, flanneld) };
    let mut lab = Lab::create(spec).unwrap();
    for node in lab.nodes_mut() {
        node.start().unwrap();
    }
    for node in lab.nodes_mut() {
        node.wait_ready().unwrap();
    }
    lab
}

/// Where programs are looked for first.
fn fetched() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/docker/usr"))
}

/// `PATH` with those programs.
fn path() -> String {
    let (fetched, rest) = (fetched(), std::env::var("PATH").unwrap());
    format!("{0}/bin:{0}/sbin:{rest}", fetched.display())
}

/// What `subnet.env` says is the node's network: its lease, the bridge's address, the MTU.
fn env(node: &Node) -> twill::lab::network::daemon::SubnetEnv {
    node.overlay().unwrap().env
}

/// Packets that matched the rules of the node's chain `FORWARD`, and of those it calls, which
/// name the overlay.
fn forwarded(node: &Node) -> u64 {
    let rules = node.netns().tool("iptables-save").words("-c -t filter").run().unwrap();
    let network = env(node).network.to_string();
    let ours = rules.lines().filter(|rule| rule.contains(&network) && rule.contains("-j ACCEPT"));
    ours.filter_map(|rule| rule.strip_prefix('[')?.split_once(':')?.0.parse::<u64>().ok()).sum()
}

/// Waits until `condition` holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(120), || Ok(condition().then_some(()))).unwrap();
}
