//! The steady state of both pipelines allocates nothing.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

#[path = "../benches/support/mod.rs"]
mod support;

use bytes::Bytes;
use support::measured::allocations;
use support::node::{Node, uncounted};
use support::{NUM_SEGMENTS, datagrams, segments, small, superpacket};
use twill::dataplane::Offloads;

#[test]
fn egress_allocates_nothing() {
    let packets = |(header, packet): (_, Vec<u8>), num| vec![(header, Bytes::from(packet)); num];
    for offloads in [Offloads::AUTO, Offloads::OFF] {
        for (packets, expected) in
            [(packets(superpacket(), 8), 8 * NUM_SEGMENTS), (packets(small(), 64), 64)]
        {
            let mut node = Node::new(offloads);
            let num = allocations(|| {
                let sent = node.egress(&packets);
                uncounted(|| {
                    let num: usize = sent.iter().map(|sent| sent.datagrams().count()).sum();
                    assert_eq!(num, expected);
                    drop(sent);
                });
            });
            assert_eq!(num, 0, "{offloads}");
        }
    }
}

#[test]
fn ingress_allocates_nothing() {
    for offloads in [Offloads::AUTO, Offloads::OFF] {
        for packets in [segments(), datagrams(64)] {
            let row = (Some(packets[0].len()), Bytes::from(packets.concat()));
            let num_written = if offloads.tso { 8 } else { 8 * packets.len() };
            let rows = vec![row; 8];
            let mut node = Node::new(offloads);
            let num = allocations(|| {
                let written = node.ingress(&rows);
                uncounted(|| {
                    assert_eq!(written.len(), num_written);
                    drop(written);
                });
            });
            assert_eq!(num, 0, "{offloads}");
        }
    }
}

#[test]
fn an_allocation_would_be_noticed() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
}
