//! The stages of both pipelines on bytes in memory: what userspace itself costs, without a kernel.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

mod support;

use std::hint::black_box;
use std::io::IoSlice;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use support::measured::stage;
use support::{NUM_SEGMENTS, datagrams, routes, segments, small, superpacket};
use twill::dataplane::Offloads;
use twill::dataplane::egress::encap::Encap;
use twill::dataplane::egress::split::Split;
use twill::dataplane::ingress::coalesce::Coalescer;
use twill::dataplane::ingress::filter::IngressFilter;
use twill::dataplane::ingress::gro_item::{MAX_PIECES, Scratch};
use twill::dataplane::ingress::packet_ref::PacketRef;
use twill::dataplane::io::memory;
use twill::dataplane::io::recv_batch::RecvBatch;
use twill::dataplane::io::udp::UdpSocket;
use twill::dataplane::packet::checksum::Sum;
use twill::dataplane::packet::classify;
use twill::dataplane::pmtu::PathMtus;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [20, 64, 256, 1480, 65_536] {
        let bytes = vec![0x5a_u8; len];
        stage(&mut group, ("sum", len), (1, len), || {
            black_box(Sum::of(black_box(&bytes)));
        });
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let (header, packet) = superpacket();
    let (inner, gso) = (classify::inner(&packet).unwrap(), header.gso.unwrap());
    let mut group = criterion.benchmark_group("split");
    let size = (NUM_SEGMENTS, packet.len());
    stage(&mut group, ("tcp", "44x1420"), size, || {
        Split::new(black_box(&packet), inner, gso).unwrap().for_each(|segment| {
            black_box(segment.headers());
        });
    });
    group.finish();
}

fn encap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encap");
    for (case, num_packets, (header, packet)) in
        [("superpacket", NUM_SEGMENTS, superpacket()), ("64B", 1, small())]
    {
        let (mut encap, routes) = (Encap::new(true), routes());
        stage(&mut group, ("forward", case), (num_packets, packet.len()), || {
            if let Some(room) = encap.room() {
                room[..packet.len()].copy_from_slice(&packet);
            }
            if encap.forward(&header, packet.len(), &routes, &PathMtus::NONE) != Ok(false) {
                let (queue, _) = encap.pending();
                let num = queue.batches().len();
                queue.release(num);
                encap.reclaim();
            }
        });
    }
    group.finish();
}

fn decap(criterion: &mut Criterion) {
    let filter = IngressFilter { subnet: "10.1.16.0/24".parse().unwrap(), tun_mtu: 1472 };
    let mut group = criterion.benchmark_group("decap");
    for (case, packets) in [("tcp", segments()), ("64B", datagrams(64))] {
        let mut received = packets.clone();
        let size = (packets.len(), packets.len() * packets[0].len());
        stage(&mut group, ("packets", case), size, || {
            for (datagram, fresh) in received.iter_mut().zip(&packets) {
                // Each pass takes one hop; the header must not run out of them.
                datagram[..20].copy_from_slice(&fresh[..20]);
                black_box(filter.check(datagram).unwrap());
            }
        });
    }
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    for (case, packets) in [("tcp", segments()), ("64B", datagrams(64))] {
        let (num, len) = (packets.len(), packets[0].len());
        let batch = received(&packets);
        let inner = classify::inner(&packets[0]).unwrap();
        let mut coalescer = Coalescer::new(Offloads::AUTO);
        stage(&mut group, ("packets", case), (num, num * len), || {
            coalescer.clear();
            for index in 0..num {
                coalescer.push(&batch, PacketRef { buffer: 0, start: index * len, len }, &inner);
            }
            let mut scratch = Scratch::default();
            for item in coalescer.items() {
                let mut slices = [IoSlice::new(&[]); MAX_PIECES];
                black_box(item.gather(&batch, &mut scratch, &mut slices).len());
            }
        });
        assert_eq!(coalescer.items().len(), 1, "one superpacket");
    }
    group.finish();
}

/// `packets` in one receive buffer, as GRO puts them there.
fn received(packets: &[Vec<u8>]) -> RecvBatch {
    let (socket, underlay) = memory::udp(Offloads::AUTO);
    let mut batch = RecvBatch::default();
    underlay.send.send((Some(packets[0].len()), Bytes::from(packets.concat()))).unwrap();
    socket.recv(&mut batch).unwrap();
    batch
}

criterion_group!(benches, checksum, split, encap, decap, coalesce);
criterion_main!(benches);
