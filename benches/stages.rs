//! The stages of both arrows on bytes in memory: what userspace itself costs, without a kernel.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twill::dataplane::checksum::Sum;
use twill::dataplane::decap::Accept;
use twill::dataplane::encap::Encap;
use twill::dataplane::memory;
use twill::dataplane::packet_builder::PacketBuilder;
use twill::dataplane::pmtu::PathMtus;
use twill::dataplane::split::Split;
use twill::dataplane::vnet_hdr::{Gso, VnetHdr};
use twill::dataplane::worker::Worker;
use twill::dataplane::{Offloads, classify};
use twill::routes::{NextHop, Route, RouteTable, publish};

/// Payload of a TCP segment with timestamps in an overlay of MTU 1472.
const MSS: usize = 1420;

/// `num` segments of one TCP flow, as the wire carries them.
fn segments(num: u32) -> Vec<Vec<u8>> {
    let segment = |index: u32| {
        PacketBuilder::tcp("10.1.15.2:4000", "10.1.16.2:5001")
            .tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
            .fragment(0x4000)
            .sequence(index * 1420, 1)
            .payload(&[7; MSS])
            .build()
    };
    (0..num).map(segment).collect()
}

fn superpacket(num_segments: usize) -> (VnetHdr, Vec<u8>) {
    let packet = PacketBuilder::tcp("10.1.15.2:4000", "10.1.16.2:5001")
        .tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        .payload(&vec![7; MSS * num_segments])
        .build();
    let gso = Some(Gso::Tcp4 { gso_size: 1420 });
    (VnetHdr { gso, ..VnetHdr::default() }, packet)
}

fn routes() -> RouteTable {
    let next_hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
    let route = Route { subnet: "10.1.16.0/24".parse().unwrap(), next_hop };
    RouteTable::build("10.1.0.0/16".parse().unwrap(), 24, [route])
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [20, 64, 256, 1480, 65_536] {
        let bytes = vec![0x5a_u8; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("sum", len), |bencher| {
            bencher.iter(|| Sum::of(black_box(&bytes)));
        });
    }
    group.finish();
}

fn egress(criterion: &mut Criterion) {
    let (header, packet) = superpacket(44);
    let inner = classify::inner(&packet).unwrap();
    let Some(gso) = header.gso else { return };
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function(BenchmarkId::new("tcp", "44x1420"), |bencher| {
        bencher.iter(|| Split::new(black_box(&packet), inner, gso).map(Iterator::count));
    });
    group.finish();

    let small = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").payload(&[1; 36]).build();
    let mut group = criterion.benchmark_group("encap");
    for (case, header, packet) in
        [("superpacket", header, &packet), ("64B", VnetHdr::default(), &small)]
    {
        let (mut encap, routes) = (Encap::new(true), routes());
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                if let Some(room) = encap.room() {
                    room[..packet.len()].copy_from_slice(packet);
                }
                let is_full = encap.forward(&header, packet.len(), &routes, &PathMtus::NONE);
                if is_full != Ok(false) {
                    let (queue, _) = encap.pending();
                    let num = queue.runs().len();
                    queue.release(num);
                    encap.reclaim();
                }
            });
        });
    }
    group.finish();
}

fn ingress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ingress");
    let accept = Accept { subnet: "10.1.16.0/24".parse().unwrap(), tun_mtu: 1472 };
    for (case, offloads) in [("coalesced", Offloads::AUTO), ("singly", Offloads::OFF)] {
        let (tun, host) = memory::tun(offloads);
        let (udp, underlay) = memory::udp(offloads);
        let (_publisher, subscriber) = publish::channel();
        let mut worker = Worker::new(tun, udp, [10, 1, 16, 0].into(), accept, subscriber);
        let buffer = Bytes::from(segments(44).concat());
        group.throughput(Throughput::Bytes(buffer.len() as u64));
        group.bench_function(BenchmarkId::new(case, "44x1472"), |bencher| {
            bencher.iter_batched(
                || underlay.send.send((Some(1472), buffer.clone())),
                |_| {
                    let turn = worker.turn(Instant::now());
                    for written in host.written.try_iter() {
                        black_box(IoSlice::new(&written.1));
                    }
                    turn
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, checksum, egress, ingress);
criterion_main!(benches);
