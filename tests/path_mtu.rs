//! An underlay that shrinks: what senders behind the TUN are told, and when it is over.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the nodes are this target's own")]

mod nodes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use nodes::{Node, carry, pair, pattern, split, tcp_superpacket};
use twill::dataplane::packet_builder::PacketBuilder;
use twill::dataplane::pmtu::PathMtuCache;
use twill::dataplane::underlay_error::UnderlayError;
use twill::dataplane::vnet_hdr::VnetHdr;
use twill::dataplane::{DropReason, Offloads, classify};

/// The outer address of the right node.
const RIGHT: [u8; 4] = [192, 0, 2, 16];
const DF: u16 = 0x4000;

/// A UDP packet of `len` bytes from left to right.
fn packet(len: usize, fragment: u16) -> Vec<u8> {
    let builder = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").fragment(fragment);
    builder.payload(&pattern(len - 28)).build()
}

fn num_sent(node: &Node) -> usize {
    node.underlay.sent.try_iter().map(|sent| sent.datagrams().count()).sum()
}

#[test]
fn icmp_from_the_underlay_reaches_the_sender_as_one_of_the_overlay() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.send(VnetHdr::default(), &packet(1472, DF));
    left.run();
    assert_eq!(num_sent(&left), 1, "nobody knows yet");
    left.narrow_path(RIGHT, 1400);
    left.run();

    for len in [1472, 1373, 1372] {
        left.send(VnetHdr::default(), &packet(len, DF));
    }
    left.run();
    assert_eq!(num_sent(&left), 1);
    assert_eq!(left.dropped(DropReason::TooBigForPath), (2, 0));
    let replies = left.received();
    assert_eq!(replies.len(), 2);
    let inner = classify::inner(&replies[0]).unwrap();
    assert_eq!(inner.dst, std::net::Ipv4Addr::new(10, 1, 15, 2));
    assert_eq!(replies[0][20..22], [3, 4], "fragmentation needed");
    assert_eq!(u16::from_be_bytes([replies[0][26], replies[0][27]]), 1372);
    assert_eq!(replies[0][28..], packet(1472, DF)[..28]);
    let stats = left.worker.stats();
    assert_eq!((stats.underlay_errors.value(), stats.paths_narrowed.value()), (1, 1));
}

#[test]
fn packets_that_may_be_fragmented_still_leave() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    left.narrow_path(RIGHT, 1400);
    left.run();
    for _ in 0..3 {
        left.send(VnetHdr::default(), &packet(1472, 0));
    }
    left.run();
    carry(&left, &right, true);
    right.run();
    assert_eq!(right.received().len(), 3);
    assert!(left.received().is_empty(), "nobody complains");
}

/// The kernel refuses a run whose datagrams are longer than the path that it knows, every time.
#[test]
fn packets_known_to_need_fragments_are_tried_neither_in_runs_nor_whole() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    left.narrow_path(RIGHT, 1400);
    left.run();
    for len in [1472, 1472, 1372, 1372, 1373, 600] {
        left.send(VnetHdr::default(), &packet(len, 0));
    }
    left.run();
    let sent: Vec<_> = left.underlay.sent.try_iter().collect();
    let shapes: Vec<_> =
        sent.iter().map(|sent| (sent.bytes.len(), sent.in_fragments, sent.gso_size)).collect();
    let whole = [(1472, true, None), (1472, true, None), (2744, false, Some(1372))];
    assert_eq!(shapes, [&whole[..], &[(1373, true, None), (600, false, None)]].concat());
    let gso = left.worker.stats().snapshot().offload_state["gso"].clone();
    assert_eq!((gso.in_use, gso.fallbacks), (true, 0));
    for sent in sent {
        let gso_size = sent.gso_size.map(usize::from);
        right.underlay.send.send((gso_size, sent.bytes)).unwrap();
    }
    right.run();
    let lens: Vec<_> = right.received().iter().map(Vec::len).collect();
    assert_eq!(lens, [1472, 1472, 1372, 1372, 1373, 600], "in order");
}

#[test]
fn superpacket_with_df_is_refused_as_its_first_segment() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.narrow_path(RIGHT, 1400);
    left.run();
    let (header, superpacket) = tcp_superpacket(&pattern(28_000)); // segments of 1440 bytes
    left.send(header, &superpacket);
    left.run();
    assert_eq!(num_sent(&left), 0);
    let replies = left.received();
    let first = split((header, superpacket.into())).swap_remove(0);
    assert_eq!((replies.len(), &replies[0][28..]), (1, &first[..28]));
}

#[test]
fn run_that_the_kernel_refuses_is_sent_singly_and_teaches() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    left.underlay.refusals.push(libc::EMSGSIZE);
    left.underlay.path_mtu.store(1400, Ordering::Relaxed);
    let (header, superpacket) = tcp_superpacket(&pattern(28_000));
    left.send(header, &superpacket);
    left.run();
    carry(&left, &right, true);
    right.run();
    assert_eq!(right.received().len(), 20);
    left.send(header, &superpacket);
    left.run();
    assert_eq!((num_sent(&left), left.received().len()), (0, 1));
}

#[test]
fn what_the_kernel_refuses_is_sent_in_fragments_and_teaches() {
    for gso in [true, false] {
        let offloads = Offloads { gso, ..Offloads::AUTO };
        let (mut left, _) = pair(offloads, offloads);
        // The run, if it is one; then a datagram of it, and that again.
        for _ in 0..if gso { 3 } else { 2 } {
            left.underlay.refusals.push(libc::EMSGSIZE);
        }
        left.underlay.path_mtu.store(1400, Ordering::Relaxed);
        for _ in 0..2 {
            left.send(VnetHdr::default(), &packet(1472, DF));
        }
        left.run();
        let sent: Vec<_> = left.underlay.sent.try_iter().collect();
        assert!(sent[0].in_fragments);
        assert_eq!(sent.len(), 2);
        left.send(VnetHdr::default(), &packet(1472, DF));
        left.run();
        assert_eq!((num_sent(&left), left.received().len()), (0, 1));
    }
}

#[test]
fn path_recovers_after_ten_minutes() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.narrow_path(RIGHT, 1400);
    left.run();
    for (later, num_expected) in [(0, 0), (599, 0), (1, 1)] {
        left.now += Duration::from_secs(later);
        left.send(VnetHdr::default(), &packet(1472, DF));
        left.run();
        assert_eq!(num_sent(&left), num_expected, "{later} s later");
    }
}

#[test]
fn forged_icmps_do_no_harm() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    for outer_mtu in [0, 1, 68, 95, 1500, 9000, u32::MAX] {
        left.narrow_path(RIGHT, outer_mtu);
        left.run();
        left.send(VnetHdr::default(), &packet(1472, DF));
        left.run();
        assert_eq!(num_sent(&left), 1, "{outer_mtu}");
    }
    // About peers that nobody sends to, far more than fit one turn.
    for number in 0..5000_u16 {
        let [high, low] = number.to_be_bytes();
        left.narrow_path([203, 0, high, low], 600);
    }
    left.run();
    left.send(VnetHdr::default(), &packet(1472, DF));
    left.run();
    assert_eq!(num_sent(&left), 1);
}

#[test]
fn unreachable_peer_costs_the_others_nothing() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let to = "192.0.2.99:8285".parse().unwrap();
    for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPROTO] {
        left.underlay.errors.send(UnderlayError { to, is_too_long: false }).unwrap();
        left.underlay.refusals.push(errno);
        let (header, superpacket) = tcp_superpacket(&pattern(28_000));
        left.send(header, &superpacket);
        left.run();
        assert_eq!(num_sent(&left), 20, "errno {errno}");
    }
    let stats = left.worker.stats();
    assert_eq!((stats.underlay_errors.value(), stats.paths_narrowed.value()), (4, 0));
    assert_eq!(left.dropped(DropReason::SendRefused), (0, 0));
}

#[test]
fn error_on_receive_hides_no_datagram() {
    let (_, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let datagram = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").build();
    right.underlay.send.send((None, datagram.into())).unwrap();
    right.underlay.recv_refusals.push(libc::ECONNREFUSED);
    right.run();
    assert_eq!(right.received().len(), 1);
    assert_eq!(right.worker.stats().socket_errors.value(), 1);
}

#[test]
fn overlay_that_is_fragmented_by_choice_tells_nobody() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.worker = left.worker.with_path_mtus(PathMtuCache::off());
    left.narrow_path(RIGHT, 1400);
    left.run();
    left.send(VnetHdr::default(), &packet(1472, DF));
    left.run();
    assert_eq!((num_sent(&left), left.received().len()), (1, 0));
}
