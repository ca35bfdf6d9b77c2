//! Two workers over in-memory devices; the test acts as the underlay between them.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the nodes are this target's own")]

mod nodes;

use std::time::Instant;

use nodes::{Node, carry, pair, pattern, split, tcp_superpacket};
use twill::dataplane::capture::{Captured, Captures, Direction, Filter, Tap};
use twill::dataplane::io::underlay_error::{Icmp, UnderlayError};
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::classify;
use twill::dataplane::packet::vnet_hdr::VnetHdr;
use twill::dataplane::stats::offender::Offender;
use twill::dataplane::stats::peer_error::{PeerError, PeerErrorKind};
use twill::dataplane::worker::Budget;
use twill::dataplane::{DropReason, Offloads};
use twill::routes::NextHop;
use twill::routes::publish::{FibSink, RouteChange};

#[test]
fn superpacket_costs_one_send_and_one_write() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let (header, packet) = tcp_superpacket(&pattern(40 * 1400));
    left.send(header, &packet);
    left.run();
    carry(&left, &right, true);
    right.run();
    assert_eq!(left.worker.stats().egress.writes.value(), 1);
    assert_eq!(right.worker.stats().ingress.writes.value(), 1);
}

#[test]
fn small_packets_to_one_peer_leave_in_one_send_and_in_order() {
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    for index in 0..50_u16 {
        let payload = [&index.to_be_bytes()[..], &[0; 60]].concat();
        let builder = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").id(index);
        left.send(VnetHdr::default(), &builder.payload(&payload).build());
    }
    left.run();
    assert_eq!(left.worker.stats().egress.writes.value(), 1);
    carry(&left, &right, true);
    right.run();
    let order: Vec<u8> = right.received().iter().map(|packet| packet[29]).collect();
    assert_eq!(order, (0..50).collect::<Vec<u8>>());
}

#[test]
fn unknown_destination_is_answered_with_net_unreachable() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let packet = PacketBuilder::udp("10.1.15.2:4000", "10.1.99.2:53").build();
    left.send(VnetHdr::default(), &packet);
    left.run();
    let replies = left.received();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0][20], replies[0][21]), (3, 0));
    assert_eq!(left.dropped(DropReason::NoRoute), (1, 0));
    assert!(left.underlay.sent.is_empty());
}

#[test]
fn superpacket_without_route_is_quoted_as_its_first_segment() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.routes
        .apply(&[RouteChange { subnet: "10.1.16.0/24".parse().unwrap(), next_hop: None }])
        .unwrap();
    let (header, packet) = tcp_superpacket(&pattern(30_000));
    left.send(header, &packet);
    left.run();
    let replies = left.received();
    let first = split((header, packet.into())).swap_remove(0);
    assert_eq!(replies[0][28..], first[..28]);
}

#[test]
fn ttl_that_ends_at_ingress_is_answered_through_the_underlay() {
    let (left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    for ttl in [1, 0] {
        let builder = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53");
        right.underlay.send.send((None, builder.ttl(ttl).build().into())).unwrap();
    }
    right.run();
    assert!(right.received().is_empty(), "nothing reaches the TUN");
    assert_eq!(right.dropped(DropReason::TtlExpired), (0, 2));
    let replies: Vec<_> = right.underlay.sent.try_iter().collect();
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[0].flow.dst, "192.0.2.15:8285".parse().unwrap());
    let inner = classify::inner(&replies[0].bytes).unwrap();
    assert_eq!((inner.src, inner.dst), ([10, 1, 16, 0].into(), [10, 1, 15, 2].into()));
    assert_eq!(replies[0].bytes[20..22], [11, 0]);
    drop(left);
}

#[test]
fn icmp_errors_are_limited() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let packet = PacketBuilder::udp("10.1.15.2:4000", "10.1.99.2:53").build();
    for _ in 0..10_000 {
        left.send(VnetHdr::default(), &packet);
    }
    left.run();
    let stats = left.worker.stats();
    assert_eq!(stats.icmp_sent.value() + stats.icmp_limited.value(), 10_000);
    assert!(stats.icmp_limited.value() > 1000, "{}", stats.icmp_limited.value());
    assert_eq!(left.received().len() as u64, stats.icmp_sent.value());
}

/// A flood of undeliverable packets does not use up the limit of *fragmentation needed*.
#[test]
fn flood_without_route_leaves_room_for_fragmentation_needed() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.narrow_path([192, 0, 2, 16], 1400);
    left.run();
    let flood = PacketBuilder::udp("10.1.15.2:4000", "10.1.99.2:53").build();
    let expiring = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").ttl(1).build();
    for _ in 0..1000 {
        left.send(VnetHdr::default(), &flood);
        left.send(VnetHdr::default(), &expiring);
    }
    let long = PacketBuilder::udp("10.1.15.3:4000", "10.1.16.2:53").fragment(0x4000);
    left.send(VnetHdr::default(), &long.payload(&pattern(1440)).build());
    left.run();
    let codes: Vec<_> = left.received().iter().map(|reply| [reply[20], reply[21]]).collect();
    assert_eq!(codes.iter().filter(|&&code| code == [3, 4]).count(), 1, "{}", codes.len());
}

/// One ICMP error comes back to the sender of `packet`, or none.
fn num_answers(packet: &[u8]) -> usize {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    left.send(VnetHdr::default(), packet);
    left.run();
    assert_eq!(left.underlay.sent.try_iter().count(), 0);
    left.received().len()
}

#[test]
fn only_hosts_of_the_network_are_answered() {
    let nowhere = "10.1.99.2:53";
    for src in ["10.1.15.2:1", "10.1.15.0:1", "10.1.7.9:1"] {
        assert_eq!(num_answers(&PacketBuilder::udp(src, nowhere).build()), 1, "{src}");
    }
    for src in [
        "0.0.0.0:1",
        "8.8.8.8:1",
        "10.0.255.255:1",
        "10.2.0.1:1",
        "127.0.0.1:1",
        "192.168.64.11:1",
        "224.0.0.1:1",
        "240.0.0.1:1",
        "255.255.255.255:1",
        "10.1.255.255:1", // the Network's broadcast address
        "10.1.15.255:1",  // our subnet's
    ] {
        assert_eq!(num_answers(&PacketBuilder::udp(src, nowhere).build()), 0, "{src}");
        let expiring = PacketBuilder::udp(src, "10.1.16.2:53").ttl(1).build();
        assert_eq!(num_answers(&expiring), 0, "{src}");
    }
    for dst in ["10.1.255.255:53", "10.1.15.255:53", "224.0.0.251:5353", "255.255.255.255:67"] {
        assert_eq!(num_answers(&PacketBuilder::udp("10.1.15.2:1", dst).build()), 0, "{dst}");
    }
}

#[test]
fn ipv6_that_the_kernel_itself_sends_is_no_drop() {
    let ipv6 = |src: [u8; 2], dst: [u8; 2]| {
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[5] = 8; // of payload
        packet[6..8].copy_from_slice(&[58, 255]); // ICMPv6, hop limit
        packet[8..10].copy_from_slice(&src);
        packet[24..26].copy_from_slice(&dst);
        packet[39] = 2;
        packet
    };
    let (mut left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let solicitation = ipv6([0xfe, 0x80], [0xff, 0x02]);
    for packet in [solicitation.clone(), ipv6([0, 0], [0xff, 0x02])] {
        left.send(VnetHdr::default(), &packet);
    }
    left.run();
    let stats = left.worker.stats();
    assert_eq!(left.dropped(DropReason::NotIpv4), (0, 0));
    assert_eq!(stats.ignored_ipv6.value(), 2);

    // What a pod sends to a host of the world is lost, as is what claims to be IPv6, or comes by
    // the underlay.
    let mut junk = solicitation.clone();
    junk.truncate(39);
    for packet in [ipv6([0x20, 0x01], [0x20, 0x01]), junk, vec![0; 60], vec![0x66; 40]] {
        left.send(VnetHdr::default(), &packet);
    }
    left.run();
    assert_eq!(left.dropped(DropReason::NotIpv4), (4, 0));
    assert_eq!(stats.ignored_ipv6.value(), 2);
    right.underlay.send.send((None, solicitation.into())).unwrap();
    right.run();
    assert_eq!(right.dropped(DropReason::NotIpv4), (0, 1));
    assert!(left.received().is_empty() && right.received().is_empty());
}

#[test]
fn garbage_is_dropped_under_its_reason_and_legal_traffic_passes() {
    let (_, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let legal = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").payload(&[1; 100]);
    let mut lying = legal.build();
    lying[3] ^= 1;
    let mut corrupt = legal.build();
    corrupt[10] ^= 1;
    let mut ipv6 = legal.build();
    ipv6[0] = 0x60;
    let garbage: Vec<(Vec<u8>, DropReason)> = vec![
        (vec![], DropReason::TooShort),
        (vec![0x45; 19], DropReason::TooShort),
        (lying, DropReason::BadTotalLength),
        (corrupt, DropReason::BadHeaderChecksum),
        (ipv6, DropReason::NotIpv4),
        (legal.clone().payload(&[0; 2000]).build(), DropReason::Oversized),
        (legal.clone().fragment(0x3fff).build(), DropReason::BadFragment),
        (PacketBuilder::udp("10.1.15.2:1", "8.8.8.8:53").build(), DropReason::NotOurSubnet),
        (PacketBuilder::udp("127.0.0.1:1", "10.1.16.2:53").build(), DropReason::MartianSource),
        (PacketBuilder::udp("10.1.16.3:1", "10.1.16.2:53").build(), DropReason::MartianSource),
    ];
    for (bytes, _) in &garbage {
        right.underlay.send.send((None, bytes.clone().into())).unwrap();
        right.underlay.send.send((None, legal.build().into())).unwrap();
    }
    right.run();
    assert_eq!(right.received(), vec![legal.ttl(63).build(); garbage.len()]);
    for (bytes, reason) in garbage {
        assert!(right.dropped(reason).1 > 0, "{reason:?} for {bytes:?}");
    }
}

#[test]
fn full_send_buffer_holds_egress_back_and_lets_ingress_go_on() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let out = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").build();
    let into = PacketBuilder::udp("10.1.16.2:53", "10.1.15.2:4000").build();
    left.underlay.refusals.push(libc::EAGAIN);
    left.underlay.refusals.push(libc::EAGAIN);
    left.send(VnetHdr::default(), &out);
    left.run();
    left.send(VnetHdr::default(), &out);
    left.underlay.send.send((None, into.into())).unwrap();
    left.run();
    assert!(left.underlay.sent.is_empty(), "still blocked");
    assert_eq!(left.received().len(), 1, "the other direction goes on");
    left.run();
    let num: usize = left.underlay.sent.try_iter().map(|sent| sent.datagrams().count()).sum();
    assert_eq!(num, 2, "nothing was lost");
}

/// Packets that the socket does not take stay in the TUN queue, which the host limits.
#[test]
fn while_the_send_buffer_is_full_the_tun_is_read_no_further() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let (header, superpacket) = tcp_superpacket(&pattern(60_000));
    for _ in 0..20 {
        left.send(header, &superpacket);
    }
    // The batch that fills up first, and once more for each turn that tries.
    left.underlay.refusals.push(libc::EAGAIN);
    left.run();
    let num_unread = left.host.send.len();
    assert!(num_unread >= 18, "{num_unread} of 20 are unread");
    left.underlay.refusals.push(libc::EAGAIN);
    left.run();
    assert_eq!(left.host.send.len(), num_unread);
    left.run();
    assert_eq!(left.host.send.len(), 0);
    let num: usize = left.underlay.sent.try_iter().map(|sent| sent.datagrams().count()).sum();
    assert_eq!(num, 20 * 43, "nothing was lost");
}

/// Edge-triggered: data that is ready is reported once, so a reader that stops at an error hears no more.
#[test]
fn error_of_a_device_hides_no_packet_that_is_ready() {
    for errno in [libc::EIO, libc::EINTR, libc::ENOMEM, libc::EINVAL] {
        let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
        let out = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").build();
        let into = PacketBuilder::udp("10.1.16.2:53", "10.1.15.2:4000").build();
        for _ in 0..3 {
            left.host.read_refusals.push(errno);
            left.underlay.recv_refusals.push(errno);
            left.send(VnetHdr::default(), &out);
            left.underlay.send.send((None, into.clone().into())).unwrap();
        }
        left.run();
        let num: usize = left.underlay.sent.try_iter().map(|sent| sent.datagrams().count()).sum();
        assert_eq!((num, left.received().len()), (3, 3), "errno {errno}");
        let stats = left.worker.stats();
        assert_eq!((stats.tun_errors.value(), stats.socket_errors.value()), (3, 3));
    }
}

#[test]
fn device_that_goes_on_failing_is_given_time() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    for _ in 0..10_000 {
        left.host.read_refusals.push(libc::EIO);
        left.underlay.recv_refusals.push(libc::ENOMEM);
    }
    assert_eq!(left.worker.turn(Instant::now()).unwrap(), Budget::Unused, "so it sleeps");
    let stats = left.worker.stats();
    assert!(stats.tun_errors.value() < 100, "{}", stats.tun_errors.value());
    assert!(stats.socket_errors.value() < 100, "{}", stats.socket_errors.value());
}

#[test]
fn deleted_device_ends_the_worker() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let (orphan, _) = crossbeam_channel::unbounded();
    left.host.send = orphan; // the memory device reports EBADFD once its host is gone
    let lost = left.worker.turn(Instant::now()).unwrap_err();
    assert_eq!(lost.to_string(), "lost the TUN queue");
}

#[test]
fn changed_route_holds_for_the_next_turn() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let next_hop = NextHop::new("198.51.100.7:8285".parse().unwrap());
    let subnet = "10.1.16.0/24".parse().unwrap();
    left.routes.apply(&[RouteChange { subnet, next_hop: Some(next_hop) }]).unwrap();
    left.send(VnetHdr::default(), &PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").build());
    left.run();
    assert_eq!(left.underlay.sent.try_recv().unwrap().flow.dst, next_hop.addr);
}

#[test]
fn capture_has_what_left_what_came_and_what_was_dropped_with_its_reason() {
    let captures = Captures::default();
    let (left, mut right) = pair(Offloads::AUTO, Offloads::AUTO);
    let mut left = Node { worker: left.worker.with_tap(Tap::new(captures.clone())), ..left };
    let (header, superpacket) = tcp_superpacket(&pattern(3 * 1400));
    left.send(header, &superpacket);
    left.run();
    let filter =
        Filter { subnets: Vec::new(), direction: None, only_dropped: false, snap_len: 65_535 };
    let capture = captures.start(filter).unwrap();
    left.send(header, &superpacket);
    let nowhere = PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").build();
    left.send(VnetHdr::default(), &nowhere);
    left.run();
    carry(&left, &right, true);
    right.run();
    let answer = PacketBuilder::udp("10.1.16.2:2", "10.1.15.2:1").payload(&pattern(9)).build();
    right.send(VnetHdr::default(), &answer);
    right.send(VnetHdr::default(), &PacketBuilder::udp("10.1.16.2:2", "10.1.15.2:1").build());
    right.run();
    carry(&right, &left, true);
    left.underlay.send.send((None, nowhere.clone().into())).unwrap();
    left.host.refusals.pass();
    left.host.refusals.push(libc::ENOBUFS);
    left.run();

    let captured: Vec<Captured> = capture.take().collect();
    let seen: Vec<_> = captured.iter().map(|p| (p.direction, p.reason, p.len)).collect();
    let (egress, ingress) = (Direction::Egress, Direction::Ingress);
    let [no_route, martian] = [DropReason::NoRoute, DropReason::NotOurSubnet].map(Some);
    assert_eq!(
        seen,
        [
            (egress, no_route, 28),
            (egress, None, 1440),
            (egress, None, 1440),
            (egress, None, 1440),
            (ingress, martian, 28),
            (ingress, None, 37),
            (ingress, Some(DropReason::TunRefused), 28),
        ],
        "segments by themselves, and nothing of what was sent before"
    );
    assert_eq!(captured[0].bytes, nowhere);
    assert_eq!(captured[5].bytes[20..], answer[20..]);
    assert_eq!(capture.counts(), (7, 0));
    drop(capture);
    left.send(header, &superpacket);
    left.run();
}

#[test]
fn last_dropped_packet_is_known_by_reason() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    for port in [53, 54] {
        let dst = format!("10.1.99.2:{port}");
        let packet = PacketBuilder::udp("10.1.15.2:1", &dst).payload(&pattern(72)).build();
        left.send(VnetHdr::default(), &packet);
    }
    left.run();
    left.underlay.refusals.push(libc::EPERM);
    let (header, superpacket) = tcp_superpacket(&pattern(3 * 1400));
    left.send(header, &superpacket);
    left.run();
    let dropped = left.worker.stats().snapshot().egress.last_dropped;
    let expected = Offender {
        src: [10, 1, 15, 2].into(),
        dst: [10, 1, 99, 2].into(),
        protocol: 17,
        ports: Some((1, 54)),
        len: 100,
    };
    assert_eq!(dropped["no_route"], expected);
    let refused = dropped["send_refused"];
    assert_eq!((refused.dst, refused.ports), ([10, 1, 16, 2].into(), Some((4000, 5001))));
    assert_eq!(refused.len, 1440, "one segment");
    assert_eq!(dropped.len(), 2);
}

#[test]
fn errors_about_datagrams_name_their_peer() {
    let (mut left, _) = pair(Offloads::AUTO, Offloads::AUTO);
    let to = "192.0.2.16:8285".parse().unwrap();
    for (kind, code) in [(3, 3), (3, 13), (11, 0)] {
        let icmp = Some(Icmp { kind, code, sender: [192, 0, 2, 9].into() });
        let error = UnderlayError { to, from_own_port: false, too_long: None, icmp };
        left.underlay.errors.send(error).unwrap();
    }
    left.underlay.recv_refusals.push(libc::ECONNREFUSED);
    left.underlay.refusals.push(libc::EPERM);
    left.send(VnetHdr::default(), &PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").build());
    left.run();
    let error = |kind, reporter| PeerError { to, kind, reporter };
    let router = Some([192, 0, 2, 9].into());
    let expected = [
        error(PeerErrorKind::SendRefused(libc::EPERM), None),
        error(PeerErrorKind::PortUnreachable, router),
        error(PeerErrorKind::Prohibited, router),
    ];
    let stats = left.worker.stats();
    assert_eq!(stats.peer_errors.take().collect::<Vec<_>>(), expected);
    assert_eq!(stats.underlay_errors.value(), 3);
}
