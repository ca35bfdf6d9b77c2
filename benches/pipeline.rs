//! Both pipelines as a whole, over in-memory devices: what a worker costs without a kernel.
//!
//! The times include the devices' copies and channels; their allocations are not counted.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

mod support;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use support::measured::stage;
use support::node::{Node, uncounted};
use support::{NUM_SEGMENTS, datagrams, segments, small, superpacket};
use twill::dataplane::Offloads;
use twill::dataplane::io::memory::TunPacket;

const CASES: [(&str, Offloads); 2] = [("auto", Offloads::AUTO), ("off", Offloads::OFF)];

fn egress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("egress");
    let shared = |(header, packet): (_, Vec<u8>)| -> TunPacket { (header, Bytes::from(packet)) };
    let inputs = [
        ("superpacket", NUM_SEGMENTS, vec![shared(superpacket())]),
        ("64x64B", 64, vec![shared(small()); 64]),
    ];
    for (case, offloads) in CASES {
        for (input, num_packets, packets) in &inputs {
            let mut node = Node::new(offloads);
            let len = packets.iter().map(|(_, packet)| packet.len()).sum();
            stage(&mut group, (input, case), (*num_packets, len), || {
                let sent = node.egress(packets);
                uncounted(|| drop(black_box(sent)));
            });
        }
    }
    group.finish();
}

fn ingress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ingress");
    let (tcp, udp) = (segments(), datagrams(64));
    for (case, offloads) in CASES {
        for (input, packets) in [("44xTCP", &tcp), ("64x64B", &udp)] {
            let datagram_len = packets[0].len();
            let buffers: Vec<(Option<usize>, Bytes)> = if offloads.gro {
                vec![(Some(datagram_len), Bytes::from(packets.concat()))]
            } else {
                packets.iter().map(|packet| (None, Bytes::from(packet.clone()))).collect()
            };
            let mut node = Node::new(offloads);
            let size = (packets.len(), datagram_len * packets.len());
            stage(&mut group, (input, case), size, || {
                let written = node.ingress(&buffers);
                uncounted(|| drop(black_box(written)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, egress, ingress);
criterion_main!(benches);
