//! Two workers over in-memory devices: the same packets arrive, whatever offloads each of them has,
//! loses or regains.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the nodes are this target's own")]

mod nodes;

use std::collections::BTreeMap;

use nodes::{Node, carry, pair, pattern, split, tcp_superpacket};
use twill::dataplane::io::memory::TunPacket;
use twill::dataplane::offload::backoff::{FIRST_WAIT, LONGEST_WAIT};
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::classify;
use twill::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VnetHdr};
use twill::dataplane::stats::offload_state::OffloadSnapshot;
use twill::dataplane::{DropReason, Offloads};

const DST: &str = "10.1.16.2:5001";
const MF: u16 = 0x2000;

/// What a host sends in a turn or two: superpackets of both protocols, small packets, mixed
/// lengths, fragments, and a segment that is corrupt already.
fn traffic() -> Vec<TunPacket> {
    let mut packets = Vec::new();
    let mut plain = |builder: PacketBuilder| {
        packets.push((VnetHdr::default(), builder.build().into()));
    };
    for index in 0..30_u16 {
        plain(PacketBuilder::udp("10.1.15.2:4001", DST).id(index).payload(&pattern(36)));
        let len = [1000, 1, 1444, 1444, 700][usize::from(index) % 5];
        plain(PacketBuilder::udp("10.1.15.2:4002", DST).id(index).payload(&pattern(len)));
        let segment = PacketBuilder::tcp("10.1.15.3:4003", DST).id(index).payload(&pattern(100));
        plain(segment.sequence(u32::from(index) * 100, 1));
        let fragment = PacketBuilder::udp("10.1.15.4:4004", DST).id(index / 2);
        let (field, len) = if index % 2 == 0 { (MF, 1440) } else { (181, 333) };
        plain(fragment.fragment(field).payload(&pattern(len)));
    }
    for index in 0..6 {
        let segment = PacketBuilder::tcp("10.1.15.5:4005", DST).id(index).payload(&pattern(900));
        let mut bytes = segment.sequence(u32::from(index) * 900, 1).build();
        bytes[500] ^= u8::from(index == 3);
        packets.push((VnetHdr::default(), bytes.into()));
    }
    for (gso_size, len) in [(1400, 60_000), (1400, 1401), (536, 30_000)] {
        let tcp = PacketBuilder::tcp("10.1.15.6:4006", DST).payload(&pattern(len));
        packets.push(superpacket(Gso::Tcp4 { gso_size }, 16, &tcp));
    }
    for (gso_size, len) in [(64, 2000), (1400, 40_000), (1, 17)] {
        let udp = PacketBuilder::udp("10.1.15.7:4007", DST).payload(&pattern(len));
        packets.push(superpacket(Gso::Udp { gso_size }, 6, &udp));
    }
    packets
}

fn superpacket(gso: Gso, offset: u16, packet: &PacketBuilder) -> TunPacket {
    let checksum = Some(PartialChecksum { start: 20, offset });
    (VnetHdr { gso: Some(gso), checksum, header_len: 40 }, packet.build().into())
}

/// The packets of each flow, in order.
fn by_flow(packets: Vec<Vec<u8>>) -> BTreeMap<(Vec<u8>, u8), Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let (addrs, protocol) = (packet[12..20].to_vec(), packet[9]);
        // Ports only tell flows apart where every packet has them.
        let key = if packet[15] == 4 { addrs } else { [addrs, packet[20..24].to_vec()].concat() };
        flows.entry((key, protocol)).or_default().push(packet);
    }
    flows
}

/// Gives `node` what its TUN would deliver with these offloads.
fn send(node: &Node, offloads: Offloads, (header, packet): TunPacket) {
    let as_it_is = match header.gso {
        None => true,
        Some(Gso::Tcp4 { .. }) => offloads.tso,
        Some(Gso::Udp { .. }) => offloads.uso,
    };
    if as_it_is {
        node.send(header, &packet);
    } else {
        split((header, packet)).iter().for_each(|packet| node.send(VnetHdr::default(), packet));
    }
}

#[test]
fn every_combination_on_both_ends_carries_the_same_packets() {
    let sent = traffic();
    let two_hops_on = |mut packet: Vec<u8>| {
        packet[8] -= 2;
        twill::dataplane::packet::checksum::write_ipv4_checksum(&mut packet[..20]);
        packet
    };
    let expected: Vec<_> = sent.iter().cloned().flat_map(split).map(two_hops_on).collect();
    let (num, expected) = (expected.len() as u64, by_flow(expected));
    assert_eq!(expected.len(), 7);
    for a in Offloads::combinations() {
        for b in Offloads::combinations() {
            let (mut left, mut right) = pair(a, b);
            sent.iter().cloned().for_each(|packet| send(&left, a, packet));
            left.run();
            carry(&left, &right, b.gro);
            right.run();
            let written: Vec<TunPacket> = right.host.written.try_iter().collect();
            let fits = |(header, _): &TunPacket| match header.gso {
                None => true,
                Some(Gso::Tcp4 { .. }) => b.tso,
                Some(Gso::Udp { .. }) => b.uso,
            };
            assert!(written.iter().all(fits), "{a} to {b}: a superpacket that was not asked for");
            let received = by_flow(written.into_iter().flat_map(split).collect());
            for (flow, packets) in &expected {
                assert!(received[flow] == *packets, "{a} to {b}: flow {flow:?}");
            }
            let counted = (left.worker.stats(), right.worker.stats());
            assert_eq!(counted.0.egress.packets.value(), num, "{a} to {b}");
            assert_eq!(counted.1.ingress.packets.value(), num, "{a} to {b}");
        }
    }
}

fn state(node: &Node, offload: &str) -> OffloadSnapshot {
    node.worker.stats().snapshot().offload_state[offload].clone()
}

/// Carries two superpackets of 20 segments from left to right, which must all arrive.
fn assert_carries(left: &mut Node, right: &mut Node) {
    let (header, packet) = tcp_superpacket(&pattern(28_000));
    for _ in 0..2 {
        left.send(header, &packet);
        left.run();
        carry(left, right, true);
        right.run();
    }
    let received = right.received();
    assert_eq!(received.len(), 40);
    assert!(received.iter().all(|packet| classify::inner(packet).is_ok()));
    assert_eq!(right.dropped(DropReason::TunRefused), (0, 0));
}

#[test]
fn device_without_gso_is_noticed_loses_nothing_and_is_tried_again() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    left.underlay.refusals.push(libc::EIO);
    assert_carries(&mut left, &mut right);
    assert_eq!(left.worker.stats().offloads().to_string(), "tso,uso,gro");
    let gso = state(&left, "gso");
    assert_eq!((gso.asked, gso.fallbacks), (true, 1));
    assert!(gso.why_not.unwrap().contains("Input/output error"));

    let writes = |node: &Node| node.worker.stats().egress.writes.value();
    assert_eq!(writes(&left), 40, "one by one");
    left.now += FIRST_WAIT;
    // The turn that notices comes first.
    left.run();
    assert_carries(&mut left, &mut right);
    assert_eq!(writes(&left), 42, "in batches again");
    assert_eq!(left.worker.stats().offloads(), Offloads::AUTO);
    assert_eq!(state(&left, "gso").why_not, None);
}

#[test]
fn device_that_stays_without_gso_is_asked_ever_less_often() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let mut num_refused = 0;
    for _ in 0..1000 {
        if left.worker.stats().offloads().gso {
            left.underlay.refusals.push(libc::EIO);
            num_refused += 1;
        }
        assert_carries(&mut left, &mut right);
        left.now += FIRST_WAIT;
        left.run();
    }
    let spent = 1000 * FIRST_WAIT.as_secs();
    assert_eq!(state(&left, "gso").fallbacks, num_refused);
    assert!(num_refused < 8 + spent / LONGEST_WAIT.as_secs(), "{num_refused}");
    assert!(num_refused > spent / LONGEST_WAIT.as_secs(), "{num_refused}");
}

/// The kernel refuses the next batch. EMSGSIZE must come twice: the first may be about an earlier
/// datagram.
fn refuse_batch(node: &Node, errno: i32) {
    for _ in 0..if errno == libc::EMSGSIZE { 2 } else { 1 } {
        node.underlay.refusals.push(errno);
    }
}

#[test]
fn run_in_a_shape_that_the_kernel_dislikes_is_counted_and_gso_stays() {
    for errno in [libc::EINVAL, libc::EMSGSIZE] {
        let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
        refuse_batch(&left, errno);
        assert_carries(&mut left, &mut right);
        assert_eq!(state(&left, "gso").fallbacks, 1);
        assert_eq!(left.worker.stats().offloads(), Offloads::AUTO);
    }
}

/// A kernel that refuses every batch, with each possible errno.
#[test]
fn run_that_the_kernel_refuses_turn_after_turn_suspends_gso() {
    for errno in [libc::EINVAL, libc::EMSGSIZE] {
        let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
        let mut num_refused = 0;
        for _ in 0..1000 {
            if left.worker.stats().offloads().gso {
                refuse_batch(&left, errno);
                num_refused += 1;
            }
            assert_carries(&mut left, &mut right);
        }
        assert!((2..20).contains(&num_refused), "{num_refused} of 1000");
        let gso = state(&left, "gso");
        assert_eq!((gso.in_use, gso.fallbacks), (false, num_refused));
        let reason = std::io::Error::from_raw_os_error(errno).to_string();
        assert!(gso.why_not.unwrap().contains(&reason), "{reason}");

        // Tried again with one batch, which is refused at once.
        left.now += FIRST_WAIT;
        left.run();
        assert!(left.worker.stats().offloads().gso);
        refuse_batch(&left, errno);
        assert_carries(&mut left, &mut right);
        assert!(!left.worker.stats().offloads().gso);
        assert_eq!(state(&left, "gso").fallbacks, num_refused + 1);
    }
}

#[test]
fn run_that_is_refused_now_and_then_costs_gso_nothing() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    for _ in 0..100 {
        left.underlay.refusals.push(libc::EINVAL);
        assert_carries(&mut left, &mut right);
        assert_carries(&mut left, &mut right);
    }
    assert_eq!(state(&left, "gso").fallbacks, 100);
    assert!(left.worker.stats().offloads().gso);
}

#[test]
fn tun_that_refuses_tcp_superpackets_gets_their_packets_and_keeps_those_of_udp() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    right.host.refusals.push(libc::EINVAL);
    assert_carries(&mut left, &mut right);
    assert_eq!(right.worker.stats().offloads().to_string(), "uso,gso,gro");
    assert_eq!(state(&right, "tso").fallbacks, 1);
    assert!(state(&right, "tso").why_not.unwrap().contains("Invalid argument"));

    let udp = PacketBuilder::udp("10.1.15.2:4000", DST).payload(&pattern(10_000));
    let (header, packet) = superpacket(Gso::Udp { gso_size: 1000 }, 6, &udp);
    left.send(header, &packet);
    left.run();
    carry(&left, &right, true);
    right.host.refusals.push(libc::EINVAL);
    right.run();
    assert_eq!(right.received().len(), 10);
    assert_eq!(right.worker.stats().offloads().to_string(), "gso,gro");

    right.now += FIRST_WAIT;
    right.run();
    assert_eq!(right.worker.stats().offloads(), Offloads::AUTO);
    let before = right.worker.stats().ingress.writes.value();
    assert_carries(&mut left, &mut right);
    assert_eq!(right.worker.stats().ingress.writes.value() - before, 2);
}

#[test]
fn what_was_not_asked_for_is_never_tried() {
    let offloads = Offloads { gro: true, ..Offloads::OFF };
    let (mut left, mut right) = pair(offloads, offloads);
    let (header, packet) = tcp_superpacket(&pattern(28_000));
    for packet in split((header, packet.into())) {
        left.send(VnetHdr::default(), &packet);
    }
    left.run();
    (left.now, right.now) = (left.now + LONGEST_WAIT, right.now + LONGEST_WAIT);
    carry(&left, &right, true);
    right.run();
    assert_eq!(right.worker.stats().ingress.writes.value(), 20);
    assert_eq!(right.worker.stats().offloads(), offloads);
    assert_eq!(state(&right, "gso").why_not.as_deref(), Some("not asked for"));
}
