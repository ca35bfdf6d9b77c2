//! Packets that are legal and rare: with any offloads, each arrives as a router would forward it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the nodes are this target's own")]

mod nodes;

use nodes::{carry, pair, pair_with_mtu, pattern};
use twill::dataplane::Offloads;
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::checksum::{Sum, write_ipv4_checksum};
use twill::dataplane::packet::headers::tcp;
use twill::dataplane::packet::vnet_hdr::{Gso, VnetHdr};

const SRC: &str = "10.1.15.2:4000";
const DST: &str = "10.1.16.2:5001";
const DF: u16 = 0x4000;
const MF: u16 = 0x2000;

/// TCP options, padded: a timestamp, and a SACK block (RFC 7323, RFC 2018).
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
const SACK: [u8; 12] = [1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 19];

/// Asserts that `packets` arrive two hops older, in order and otherwise unchanged, over every
/// pair of offloads.
fn assert_carried(packets: &[PacketBuilder]) {
    let switches = [Offloads::AUTO, Offloads::OFF, Offloads { gso: false, ..Offloads::AUTO }];
    for a in switches {
        for b in switches {
            let (mut left, mut right) = pair(a, b);
            for packet in packets {
                left.send(VnetHdr::default(), &packet.build());
            }
            left.run();
            carry(&left, &right, b.gro);
            right.run();
            let expected: Vec<_> =
                packets.iter().map(|packet| packet.clone().ttl(62).build()).collect();
            assert_eq!(right.received(), expected, "{a} to {b}");
        }
    }
}

/// `num` TCP segments of 100 bytes that follow each other, changed by `change`.
fn segments(num: u16, change: impl Fn(u16, PacketBuilder) -> PacketBuilder) -> Vec<PacketBuilder> {
    let segment = |index: u16| {
        let builder = PacketBuilder::tcp(SRC, DST).tcp_options(&TIMESTAMP).id(500 + index);
        let sequence = (u32::MAX - 150).wrapping_add(100 * u32::from(index));
        change(index, builder.payload(&pattern(100)).sequence(sequence, 1))
    };
    (0..num).map(segment).collect()
}

#[test]
fn fragments_stay_fragments_and_keep_their_place() {
    let fragment = |offset: u16, more: u16, len: usize| {
        let field = (offset / 8) | more;
        PacketBuilder::udp(SRC, DST).id(77).fragment(field).payload(&pattern(len))
    };
    let datagram = PacketBuilder::udp(SRC, DST).payload(&pattern(64));
    assert_carried(&[
        datagram.clone().id(1),
        datagram.clone().id(2),
        fragment(0, MF, 1440),
        fragment(1448, MF, 1440),
        fragment(2896, 0, 100),
        datagram.clone().id(3),
        datagram.id(4),
    ]);
    assert_carried(&[fragment(1448, 0, 100), fragment(0, MF, 1440)]);
}

/// RFC 791: a fragment has at least 8 bytes. Filtering small ones (RFC 1858) is not our task.
#[test]
fn fragments_of_eight_bytes_are_carried() {
    for protocol in [1, 6, 17] {
        let fragment = |field: u16, ttl: u8| {
            let mut packet = PacketBuilder::udp(SRC, DST).fragment(field).ttl(ttl).build();
            packet[9] = protocol;
            write_ipv4_checksum(&mut packet[..20]);
            packet
        };
        for offloads in [Offloads::AUTO, Offloads::OFF] {
            let (mut left, mut right) = pair(offloads, offloads);
            for field in [MF, 1 | MF, 2] {
                left.send(VnetHdr::default(), &fragment(field, 64));
            }
            left.run();
            carry(&left, &right, offloads.gro);
            right.run();
            let expected = [MF, 1 | MF, 2].map(|field| fragment(field, 62));
            assert_eq!(right.received(), expected, "protocol {protocol}, {offloads}");
        }
    }
}

#[test]
fn ip_options_are_carried_and_never_merged() {
    for options in [&[1, 1, 1, 0][..], &[148, 4, 0, 0], &[1; 40]] {
        assert_carried(&segments(6, |_, segment| segment.ip_options(options)));
        let datagram = PacketBuilder::udp(SRC, DST).ip_options(options).payload(&pattern(200));
        assert_carried(&[datagram.clone(), datagram]);
    }
}

/// An experimental option (RFC 4727) that looks like a UDP header with a right checksum.
#[test]
fn ip_option_that_looks_like_udp_is_not_taken_for_it() {
    let payload = pattern(200);
    let datagram = |options: &[u8]| {
        PacketBuilder::udp(SRC, DST).fragment(DF).ip_options(options).payload(&payload)
    };
    let mut option = [158, 8, 0, 0, 0, 216, 0, 0];
    let packet = datagram(&option).build();
    let (src, dst) = ([10, 1, 15, 2].into(), [10, 1, 16, 2].into());
    let sum = Sum::of_pseudo_header(src, dst, 17, 216).plus(Sum::of(&packet[20..]));
    option[6..].copy_from_slice(&sum.checksum());
    assert_carried(&[datagram(&option), datagram(&option)]);
}

#[test]
fn ids_that_count_and_ids_that_jump_come_out_as_they_went_in() {
    assert_carried(&segments(20, |_, segment| segment));
    assert_carried(&segments(20, |index, segment| segment.id(0xfff8_u16.wrapping_add(index))));
    assert_carried(&segments(20, |index, segment| segment.id(index.wrapping_mul(7919))));
    assert_carried(&segments(20, |_, segment| segment.id(9)));
    assert_carried(&segments(20, |index, segment| segment.id(500 + index).fragment(DF)));
}

/// With DF an ID means nothing (RFC 6864), so merging may count it up; all else is kept.
#[test]
fn segments_with_df_and_one_id_keep_all_but_the_id() {
    for id in [0, 0x1234] {
        let packets = segments(20, |_, segment| segment.id(id).fragment(DF));
        let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
        for packet in &packets {
            left.send(VnetHdr::default(), &packet.build());
        }
        left.run();
        carry(&left, &right, true);
        right.run();
        assert_eq!(right.worker.stats().ingress.writes.value(), 1, "merged");
        let counted = |(packet, index): (&PacketBuilder, u16)| {
            packet.clone().id(id.wrapping_add(index)).ttl(62).build()
        };
        let expected: Vec<_> = packets.iter().zip(0..).map(counted).collect();
        assert_eq!(right.received(), expected);
    }
}

#[test]
fn every_ecn_mark_is_carried_and_a_changing_one_is_never_smoothed() {
    for ecn in 0..4 {
        assert_carried(&segments(10, |_, segment| segment.tos(0xb8 | ecn)));
    }
    assert_carried(&segments(10, |index, segment| segment.tos(if index == 4 { 3 } else { 2 })));
    let ece = tcp::ACK_FLAG | 0x40;
    assert_carried(&segments(10, |index, segment| {
        let flags = if index < 5 { ece } else { tcp::ACK_FLAG };
        segment.tos(2).flags(if index == 6 { tcp::ACK_FLAG | tcp::CWR } else { flags })
    }));
}

#[test]
fn superpacket_with_cwr_has_it_on_its_first_segment_only() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let superpacket = PacketBuilder::tcp(SRC, DST)
        .tos(2)
        .flags(tcp::ACK_FLAG | tcp::CWR | tcp::PSH)
        .payload(&pattern(5000));
    let gso = Some(Gso::Tcp4 { gso_size: 1000 });
    left.send(VnetHdr { gso, ..VnetHdr::default() }, &superpacket.build());
    left.run();
    carry(&left, &right, true);
    right.run();
    let received = right.received();
    let flags: Vec<u8> = received.iter().map(|packet| packet[20 + tcp::FLAGS]).collect();
    let ack = tcp::ACK_FLAG;
    assert_eq!(flags, [ack | tcp::CWR, ack, ack, ack, ack | tcp::PSH]);
    assert!(received.iter().all(|packet| packet[1] == 2), "ECT(0) throughout");
}

#[test]
fn timestamps_and_sack_blocks_are_carried() {
    assert_carried(&segments(20, |index, segment| {
        let mut options = TIMESTAMP;
        options[7] = u8::try_from(index / 4).unwrap();
        segment.tcp_options(&options)
    }));
    assert_carried(&segments(20, |index, segment| {
        let both = [TIMESTAMP, SACK].concat();
        if index % 5 == 0 { segment.tcp_options(&both) } else { segment }
    }));
    assert_carried(&segments(8, |_, segment| segment.tcp_options(&[TIMESTAMP, SACK].concat())));
    // Pure acknowledgments with SACK, as a receiver sends them under loss.
    assert_carried(&segments(8, |_, segment| segment.tcp_options(&SACK).payload(&[])));
}

#[test]
fn urgent_data_is_carried() {
    assert_carried(&segments(8, |index, segment| match index {
        3 => segment.flags(tcp::ACK_FLAG | tcp::URG).urgent(7),
        _ => segment,
    }));
    let all = |_, segment: PacketBuilder| segment.flags(tcp::ACK_FLAG | tcp::URG).urgent(7);
    assert_carried(&segments(8, all));
    // A pointer without the flag says nothing, yet is not ours to change.
    assert_carried(&segments(8, |index, segment| segment.urgent(index / 4)));
}

#[test]
fn datagrams_without_checksum_stay_without() {
    // With DF, so that equal IDs do not prevent merging.
    let datagram =
        |payload: &[u8]| PacketBuilder::udp(SRC, DST).fragment(DF).payload(payload).build();
    let payload = pattern(300);
    // One whose checksum would come out as 0: what is absent looks right then.
    let mut balanced = payload.clone();
    balanced[..2].fill(0);
    let checksum = datagram(&balanced)[26..28].to_vec();
    balanced[..2].copy_from_slice(&checksum);
    assert_eq!(datagram(&balanced)[26..28], [0, 0]);
    for offloads in [Offloads::AUTO, Offloads::OFF] {
        for payload in [&payload, &balanced] {
            let (mut left, mut right) = pair(offloads, offloads);
            let mut unchecked = datagram(payload);
            unchecked[26..28].fill(0);
            for _ in 0..5 {
                left.send(VnetHdr::default(), &unchecked);
            }
            left.run();
            carry(&left, &right, offloads.gro);
            right.run();
            let received = right.received();
            assert_eq!(received.len(), 5);
            assert!(received.iter().all(|packet| packet[20..] == unchecked[20..]), "{offloads}");
        }
    }
}

#[test]
fn jumbo_overlay_carries_jumbo_packets() {
    let gso = Some(Gso::Tcp4 { gso_size: 8972 - 40 });
    let payload = pattern(60_000);
    for offloads in [Offloads::AUTO, Offloads::OFF] {
        let (mut left, mut right) = pair_with_mtu(8972, Offloads::AUTO, offloads);
        let superpacket = PacketBuilder::tcp(SRC, DST).fragment(DF).payload(&payload);
        left.send(VnetHdr { gso, ..VnetHdr::default() }, &superpacket.build());
        let longest = PacketBuilder::udp(SRC, DST).payload(&pattern(8972 - 28));
        left.send(VnetHdr::default(), &longest.build());
        left.run();
        carry(&left, &right, offloads.gro);
        right.run();
        let received = right.received();
        assert_eq!(received.len(), 8);
        let carried: Vec<u8> =
            received[..7].iter().flat_map(|packet| packet[40..].to_vec()).collect();
        assert_eq!(carried, payload);
        assert!(received[..6].iter().all(|packet| packet.len() == 8972));
        assert_eq!(received[7], longest.ttl(62).build());
    }
}
