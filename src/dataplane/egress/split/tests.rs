use proptest::prelude::*;

use super::*;
use crate::dataplane::packet::builder::PacketBuilder;
use crate::dataplane::packet::classify;

const SRC: &str = "10.1.15.2:4000";
const DST: &str = "10.1.16.2:5001";

/// Every segment of `packet` as one whole IP packet.
fn split(packet: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let inner = classify::inner(packet).unwrap();
    let segments = Split::new(packet, inner, gso).unwrap();
    segments.map(|segment| [segment.headers(), &packet[segment.payload.clone()]].concat()).collect()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

fn tcp_segment(payload: &[u8]) -> PacketBuilder {
    PacketBuilder::tcp(SRC, DST)
        .tcp_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
        .payload(payload)
}

#[test]
fn tcp_segments_are_what_the_sender_would_have_sent_one_by_one() {
    let payload = bytes(3500);
    let packet = tcp_segment(&payload).id(0xfffe).sequence(u32::MAX - 500, 9).build();
    let segments = split(&packet, Gso::Tcp4 { gso_size: 1000 });
    let expected = payload.chunks(1000).zip(0_u16..).map(|(payload, index)| {
        let id = 0xfffe_u16.wrapping_add(index);
        let sequence = (u32::MAX - 500).wrapping_add(u32::from(index) * 1000);
        tcp_segment(payload).id(id).sequence(sequence, 9).build()
    });
    assert_eq!(segments, expected.collect::<Vec<_>>());
}

#[test]
fn last_segment_keeps_fin_and_psh_and_the_first_keeps_cwr() {
    let all = tcp::ACK_FLAG | tcp::FIN | tcp::PSH | tcp::CWR;
    let packet = tcp_segment(&bytes(30)).flags(all).build();
    let segments = split(&packet, Gso::Tcp4 { gso_size: 10 });
    let flags: Vec<u8> = segments.iter().map(|segment| segment[20 + tcp::FLAGS]).collect();
    assert_eq!(
        flags,
        [tcp::ACK_FLAG | tcp::CWR, tcp::ACK_FLAG, tcp::ACK_FLAG | tcp::FIN | tcp::PSH]
    );
}

#[test]
fn urgent_pointer_names_the_same_byte_in_every_segment() {
    let all = tcp::ACK_FLAG | tcp::URG;
    let packet = tcp_segment(&bytes(40)).flags(all).urgent(15).build();
    let segments = split(&packet, Gso::Tcp4 { gso_size: 10 });
    let urgent = |segment: &Vec<u8>| (segment[20 + tcp::FLAGS], u16_at(segment, 20 + tcp::URGENT));
    let urgent: Vec<_> = segments.iter().map(urgent).collect();
    assert_eq!(urgent, [(all, 15), (all, 5), (tcp::ACK_FLAG, 0), (tcp::ACK_FLAG, 0)]);
}

#[test]
fn every_segment_has_the_ip_options_the_ecn_mark_and_df() {
    let builder = |payload: &[u8], id, sequence| {
        tcp_segment(payload)
            .ip_options(&[1, 1, 1, 0])
            .tos(0xb9)
            .fragment(ipv4::DF)
            .id(id)
            .sequence(sequence, 2)
            .build()
    };
    let payload = bytes(25);
    let segments = split(&builder(&payload, 7, 100), Gso::Tcp4 { gso_size: 10 });
    let expected = [
        builder(&payload[..10], 7, 100),
        builder(&payload[10..20], 8, 110),
        builder(&payload[20..], 9, 120),
    ];
    assert_eq!(segments, expected);
}

#[test]
fn segments_are_known_to_be_no_longer_than_the_first() {
    let packet = tcp_segment(&bytes(3500)).build();
    let longest = |packet: &[u8], gso_size| {
        let inner = classify::inner(packet).unwrap();
        Split::new(packet, inner, Gso::Tcp4 { gso_size }).unwrap().longest_packet_len()
    };
    assert_eq!(longest(&packet, 1000), 52 + 1000);
    assert_eq!(longest(&packet, 4000), 52 + 3500);
    assert_eq!(longest(&tcp_segment(&[]).build(), 1000), 52);
}

#[test]
fn udp_segments_have_their_own_length_and_checksum() {
    let payload = bytes(25);
    let packet = PacketBuilder::udp(SRC, DST).payload(&payload).build();
    let segments = split(&packet, Gso::Udp { gso_size: 10 });
    let expected = payload.chunks(10).zip(1_u16..);
    let expected =
        expected.map(|(part, id)| PacketBuilder::udp(SRC, DST).payload(part).id(id).build());
    assert_eq!(segments, expected.collect::<Vec<_>>());
}

#[test]
fn superpacket_without_payload_is_one_packet() {
    let packet = tcp_segment(&[]).build();
    assert_eq!(split(&packet, Gso::Tcp4 { gso_size: 1000 }), [packet]);
}

#[test]
fn header_that_contradicts_the_packet_is_refused() {
    let refused = |packet: &[u8], gso| {
        let inner = classify::inner(packet).unwrap();
        Split::new(packet, inner, gso).unwrap_err()
    };
    let tcp = tcp_segment(&bytes(100)).build();
    let udp = PacketBuilder::udp(SRC, DST).payload(&bytes(100)).build();
    let fragment = tcp_segment(&bytes(96)).fragment(ipv4::MF).build();
    let mut long_header = tcp_segment(&[]).build();
    long_header[20 + tcp::DATA_OFFSET] = 0xf0;
    let mut short_header = tcp.clone();
    short_header[20 + tcp::DATA_OFFSET] = 0x40;
    for (packet, gso) in [
        (&tcp, Gso::Udp { gso_size: 10 }),
        (&udp, Gso::Tcp4 { gso_size: 10 }),
        (&tcp, Gso::Tcp4 { gso_size: 0 }),
        (&fragment, Gso::Tcp4 { gso_size: 10 }),
        (&long_header, Gso::Tcp4 { gso_size: 10 }),
        (&short_header, Gso::Tcp4 { gso_size: 10 }),
    ] {
        assert_eq!(refused(packet, gso), DropReason::BadSuperpacket, "{gso:?}");
    }
}

#[test]
fn partial_checksum_is_completed() {
    for complete in
        [PacketBuilder::udp(SRC, DST).payload(&bytes(33)).build(), tcp_segment(&bytes(33)).build()]
    {
        let inner = classify::inner(&complete).unwrap();
        let offset = if inner.protocol == protocol::UDP { udp::CHECKSUM } else { tcp::CHECKSUM };
        let l4_len = u16::try_from(complete.len() - 20).unwrap();
        let pseudo = Sum::of_pseudo_header(inner.src, inner.dst, inner.protocol, l4_len).fold();
        let mut packet = complete.clone();
        packet[20 + offset..20 + offset + 2].copy_from_slice(&pseudo);
        let partial = PartialChecksum { start: 20, offset: u16::try_from(offset).unwrap() };
        complete_checksum(&mut packet, inner.protocol, partial).unwrap();
        assert_eq!(packet, complete);
    }
}

#[test]
fn checksum_field_outside_the_packet_or_in_its_ip_header_is_refused() {
    let mut packet = PacketBuilder::udp(SRC, DST).build();
    for (start, offset) in [(20, 7), (27, 0), (u16::MAX, u16::MAX), (20, 28), (0, 10), (12, 14)] {
        let partial = PartialChecksum { start, offset };
        let result = complete_checksum(&mut packet, protocol::UDP, partial);
        assert_eq!(result, Err(DropReason::BadSuperpacket));
    }
}

#[test]
fn udp_checksum_of_zero_is_sent_as_its_twin() {
    // The payload is chosen so that the sum of everything is 0xffff.
    let mut packet = PacketBuilder::udp(SRC, DST).payload(&[0, 0]).build();
    let checksum = [packet[26], packet[27]];
    packet[28..30].copy_from_slice(&checksum);
    packet[26..28].fill(0);
    let inner = classify::inner(&packet).unwrap();
    let pseudo = Sum::of_pseudo_header(inner.src, inner.dst, protocol::UDP, 10).fold();
    packet[26..28].copy_from_slice(&pseudo);
    complete_checksum(&mut packet, protocol::UDP, PartialChecksum { start: 20, offset: 6 })
        .unwrap();
    assert_eq!(packet[26..28], [0xff, 0xff]);
}

proptest! {
    #[test]
    fn segments_are_sound_and_carry_the_payload(
        payload in prop::collection::vec(any::<u8>(), 0..5000),
        gso_size in 1_u16..2000,
        is_tcp in any::<bool>(),
    ) {
        let (packet, gso, headers_len) = if is_tcp {
            (tcp_segment(&payload).build(), Gso::Tcp4 { gso_size }, 52)
        } else {
            let packet = PacketBuilder::udp(SRC, DST).payload(&payload).build();
            (packet, Gso::Udp { gso_size }, 28)
        };
        let mut carried = Vec::new();
        for segment in split(&packet, gso) {
            let inner = classify::inner(&segment).unwrap();
            let l4 = &segment[20..];
            let l4_len = u16::try_from(l4.len()).unwrap();
            let pseudo = Sum::of_pseudo_header(inner.src, inner.dst, inner.protocol, l4_len);
            prop_assert!(pseudo.plus(Sum::of(l4)).is_valid());
            prop_assert!(segment.len() <= headers_len + usize::from(gso_size));
            carried.extend_from_slice(&segment[headers_len..]);
        }
        prop_assert_eq!(carried, payload);
    }

    #[test]
    fn any_superpacket_is_split_or_refused(
        mut packet in prop::collection::vec(any::<u8>(), 20..300),
        gso_size in any::<u16>(),
        is_tcp in any::<bool>(),
    ) {
        packet[0] = 0x45 | packet[0] & 0x0f;
        packet[ipv4::PROTOCOL] = if is_tcp { protocol::TCP } else { protocol::UDP };
        let len = u16::try_from(packet.len()).unwrap();
        set_u16(&mut packet, ipv4::TOTAL_LEN, len);
        let header_len = (usize::from(packet[0] & 0x0f) * 4).clamp(20, packet.len());
        write_ipv4_checksum(&mut packet[..header_len]);
        let gso = if is_tcp { Gso::Tcp4 { gso_size } } else { Gso::Udp { gso_size } };
        if let Ok(inner) = classify::inner(&packet)
            && let Ok(segments) = Split::new(&packet, inner, gso)
        {
            prop_assert!(segments.count() <= packet.len());
        }
    }
}
