//! An underlay whose MTU shrinks: which ICMP errors senders behind the TUN get, and until when.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the nodes are this target's own")]

mod nodes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use nodes::{Node, carry, pair, pattern, split, tcp_superpacket};
use twill::dataplane::io::underlay_error::UnderlayError;
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::classify;
use twill::dataplane::packet::vnet_hdr::VnetHdr;
use twill::dataplane::pmtu::PathMtuCache;
use twill::dataplane::{DropReason, Offloads};

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
    assert_eq!(num_sent(&left), 1, "not known yet");
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
    assert_eq!((stats.underlay_errors.value(), stats.pmtu_decreases.value()), (1, 1));
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
    assert!(left.received().is_empty(), "no ICMP error");
}

/// The kernel refuses every batch whose datagrams are longer than the path that it knows.
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
    left.underlay.link_mtu.store(1400, Ordering::Relaxed);
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
        left.underlay.link_mtu.store(1400, Ordering::Relaxed);
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

/// Sends long packets with DF for `seconds`, one each 10 ms, with `between` before each; returns
/// how many left whole, not counting those of the first second if there are more.
fn send_for(left: &mut Node, seconds: u32, between: impl Fn(&Node)) -> usize {
    let mut num_whole = 0;
    for index in 0..seconds * 100 {
        between(left);
        left.now += Duration::from_millis(10);
        left.send(VnetHdr::default(), &packet(1472, DF));
        left.run();
        let whole = left.underlay.sent.try_iter().filter(|sent| !sent.in_fragments).count();
        num_whole += if index >= 100 || seconds == 1 { whole } else { 0 };
    }
    num_whole
}

#[test]
fn path_that_narrows_is_learned_and_one_that_widens_recovers_within_seconds() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.underlay.path_mtu.store(1400, Ordering::Relaxed);
    assert!(send_for(&mut left, 2, |_| {}) <= 2, "but for a probe");
    let num_replies = left.received().len();
    assert!(num_replies > 180, "{num_replies}");
    let stats = left.worker.stats();
    assert_eq!((stats.pmtu_decreases.value(), stats.paths_recovered.value()), (1, 0));
    assert!(stats.pmtu_probes.value() <= 3, "{}", stats.pmtu_probes.value());

    left.underlay.path_mtu.store(1500, Ordering::Relaxed);
    send_for(&mut left, 5, |_| {});
    assert_eq!(send_for(&mut left, 1, |_| {}), 100);
    assert_eq!((stats.pmtu_decreases.value(), stats.paths_recovered.value()), (1, 1));
    assert!(stats.pmtu_probes.value() <= 6);
}

#[test]
fn superpacket_loses_no_more_than_one_segment_to_a_probe() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.forge(RIGHT, 1400, &[]);
    left.forge(RIGHT, 1400, &packet(1472, DF));
    left.run();
    let (header, superpacket) = tcp_superpacket(&pattern(28_000));
    left.send(header, &superpacket);
    left.underlay.path_mtu.store(1400, Ordering::Relaxed);
    left.run();
    let whole: Vec<_> = left.underlay.sent.try_iter().filter(|sent| !sent.in_fragments).collect();
    assert_eq!(whole.iter().map(|sent| sent.datagrams().count()).sum::<usize>(), 1);
    assert_eq!(left.worker.stats().pmtu_decreases.value(), 1, "its bytes came back");
}

/// From a host off the path, which knows no byte of a probe.
#[test]
fn forged_icmps_reach_no_sender_and_cost_little() {
    let quotes = [vec![], packet(1472, DF), packet(1472, DF)[..8].to_vec(), vec![0; 28]];
    for quote in &quotes {
        for outer_mtu in [0, 95, 96, 552, 1400, 1500, u32::MAX] {
            let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
            left.forge(RIGHT, outer_mtu, quote);
            send_for(&mut left, 4, |_| {});
            assert_eq!(send_for(&mut left, 1, |_| {}), 100, "{outer_mtu}");
            let in_flood = send_for(&mut left, 21, |left| left.forge(RIGHT, outer_mtu, quote));
            assert!(in_flood > 1850, "{in_flood} of 2000 whole at {outer_mtu}");
            let stats = left.worker.stats();
            assert_eq!(stats.pmtu_decreases.value(), 0);
            assert!(stats.pmtu_refused.value() > 0, "{outer_mtu}");
            assert!(left.received().is_empty(), "no sender gets an ICMP");
        }
    }
}

#[test]
fn icmps_about_what_we_did_not_send_are_refused() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let with = |at: usize, byte: u8| {
        let mut bytes = packet(1472, DF);
        bytes[at] = byte;
        bytes
    };
    let quotes = [
        packet(600, DF),                                           // fits
        PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:53").build(), // not to that peer
        with(0, 0x65),                                             // IPv6
        with(0, 0x44),                                             // no header
        with(8, 1),                                                // a wrong checksum
    ];
    for quote in &quotes {
        left.forge(RIGHT, 1400, quote);
    }
    // About peers that do not exist, far more than fit one turn.
    for number in 0..5000_u16 {
        let [high, low] = number.to_be_bytes();
        left.forge([203, 0, high, low], 600, &packet(1472, DF));
    }
    left.run();
    left.send(VnetHdr::default(), &packet(1472, DF));
    left.run();
    assert_eq!(num_sent(&left), 1);
    let stats = left.worker.stats();
    assert_eq!((stats.pmtu_refused.value(), stats.pmtu_probes.value()), (5005, 0));
}

/// Such an ICMP error fails the next call, also a send of other datagrams.
#[test]
fn forged_icmps_have_no_run_sent_singly() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    for _ in 0..20 {
        left.underlay.refusals.push(libc::EMSGSIZE);
        let (header, superpacket) = tcp_superpacket(&pattern(28_000));
        left.send(header, &superpacket);
        left.run();
        let sent: Vec<_> = left.underlay.sent.try_iter().collect();
        assert_eq!(sent.len(), 1);
    }
    assert!(left.worker.stats().offloads().gso);
}

#[test]
fn unreachable_peer_costs_the_others_nothing() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let to = "192.0.2.99:8285".parse().unwrap();
    for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPROTO] {
        left.underlay
            .errors
            .send(UnderlayError { to, from_own_port: false, too_long: None, icmp: None })
            .unwrap();
        left.underlay.refusals.push(errno);
        let (header, superpacket) = tcp_superpacket(&pattern(28_000));
        left.send(header, &superpacket);
        left.run();
        assert_eq!(num_sent(&left), 20, "errno {errno}");
    }
    let stats = left.worker.stats();
    assert_eq!((stats.underlay_errors.value(), stats.pmtu_decreases.value()), (4, 0));
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
