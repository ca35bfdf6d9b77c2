//! Superpackets on one end, single packets on the other.

use std::collections::BTreeMap;

use twill::lab::daemon::Daemon;
use twill::lab::{Lab, LabSpec};

use crate::harness::{FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, pod, spec};

const OFF: &str = "--offload=off --workers=1";

/// A lab of two nodes that run with these flags.
fn lab(topic: &str, flags: [&str; 2]) -> Lab {
    let daemon = |flags| Daemon::flanneld(FLANNELD).with(flags);
    let nodes = ["n1".to_owned(), "n2".to_owned()].into_iter();
    let daemons: BTreeMap<_, _> = nodes.zip(flags.map(daemon)).collect();
    Lab::up(LabSpec { daemons, ..spec(topic, 2) }).unwrap()
}

fn assert_traffic_is_whole_both_ways(lab: &Lab) {
    for (from, to) in [(0, 1), (1, 0)] {
        assert_tcp_is_whole(lab, pod(lab, from), pod(lab, to), 16);
        assert_udp_is_whole(lab, pod(lab, from), pod(lab, to), &[16, 36, 1444, 5000]);
    }
}

#[test]
fn offloads_on_one_end_only() {
    assert_traffic_is_whole_both_ways(&lab("off1", [OFF, ""]));
}

#[test]
fn offloads_on_neither_end() {
    assert_traffic_is_whole_both_ways(&lab("off2", [OFF, OFF]));
}

#[test]
fn some_offloads_and_many_workers() {
    assert_traffic_is_whole_both_ways(&lab(
        "some",
        ["--offload=gso,gro --workers=4", "--offload=tso"],
    ));
}

#[test]
fn wire_that_carries_frames_only() {
    let lab = Lab::up(LabSpec { frames_only: true, ..spec("frames", 2) }).unwrap();
    assert_traffic_is_whole_both_ways(&lab);
}
