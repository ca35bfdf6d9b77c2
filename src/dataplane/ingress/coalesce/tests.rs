use proptest::prelude::*;

use std::io::IoSlice;

use super::*;
use crate::dataplane::egress::split::Split;
use crate::dataplane::ingress::gro_item::{MAX_PIECES, Scratch};
use crate::dataplane::io::recv_batch::MAX_BUFFERS;
use crate::dataplane::packet::builder::PacketBuilder;
use crate::dataplane::packet::classify;
use crate::dataplane::packet::headers::{MAX_PACKET_LEN, ipv4, protocol, tcp, u16_at};
use crate::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VNET_HDR_LEN, VnetHdr};

const SRC: &str = "10.1.15.2:4000";
const DST: &str = "10.1.16.2:5001";
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// What the TUN is written when `packets` come in one receive call, one behind the other.
fn coalesce_with(offloads: Offloads, packets: &[Vec<u8>]) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut batch = RecvBatch::default();
    let mut coalescer = Coalescer::new(offloads);
    let mut written = Vec::new();
    // As many packets in each buffer as fit, as after UDP_GRO.
    let mut at = Vec::new();
    let (mut buffer, mut start) = (0, 0);
    for packet in packets {
        if start + packet.len() > MAX_PACKET_LEN {
            (buffer, start) = (buffer + 1, 0);
        }
        assert!(buffer < MAX_BUFFERS, "more packets than one receive call takes");
        let (mut rooms, _) = batch.room();
        rooms.nth(buffer).unwrap()[start..start + packet.len()].copy_from_slice(packet);
        at.push(PacketRef { buffer, start, len: packet.len() });
        start += packet.len();
        batch.set(buffer, start, None);
    }
    for (at, packet) in at.into_iter().zip(packets) {
        coalescer.push(&batch, at, &classify::inner(packet).unwrap());
    }
    for item in coalescer.items() {
        let mut scratch = Scratch::default();
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let (header, packet) =
            item.gather(&batch, &mut scratch, &mut slices).split_first().unwrap();
        let header = VnetHdr::decode(<[u8; VNET_HDR_LEN]>::try_from(&header[..]).unwrap()).unwrap();
        written.push((header, packet.iter().flat_map(|piece| piece.to_vec()).collect()));
    }
    written
}

fn coalesce(packets: &[Vec<u8>]) -> Vec<(VnetHdr, Vec<u8>)> {
    coalesce_with(Offloads::AUTO, packets)
}

/// What a kernel would make of the writes again: every packet by itself.
fn split_all(written: &[(VnetHdr, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, packet) in written {
        match header.gso {
            None => packets.push(packet.clone()),
            Some(gso) => {
                let inner = classify::inner(packet).unwrap();
                for segment in Split::new(packet, inner, gso).unwrap() {
                    packets.push([segment.headers(), &packet[segment.payload.clone()]].concat());
                }
            }
        }
    }
    packets
}

/// `num` segments of one flow, 100 bytes each.
fn flow(num: u16) -> Vec<PacketBuilder> {
    flow_from(SRC, num)
}

fn flow_from(src: &str, num: u16) -> Vec<PacketBuilder> {
    let segment = |index: u16| {
        PacketBuilder::tcp(src, DST)
            .tcp_options(&TIMESTAMP)
            .payload(&[index.to_be_bytes()[1]; 100])
            .id(500 + index)
            .sequence(7000 + 100 * u32::from(index), 1)
    };
    (0..num).map(segment).collect()
}

fn build(builders: &[PacketBuilder]) -> Vec<Vec<u8>> {
    builders.iter().map(PacketBuilder::build).collect()
}

#[test]
fn segments_of_one_flow_become_one_superpacket() {
    let written = coalesce(&build(&flow(10)));
    assert_eq!(written.len(), 1);
    let (header, packet) = &written[0];
    assert_eq!(header.gso, Some(Gso::Tcp4 { gso_size: 100 }));
    assert_eq!(header.checksum, Some(PartialChecksum { start: 20, offset: 16 }));
    assert_eq!((packet.len(), header.header_len), (52 + 1000, 52));
    assert_eq!(split_all(&written), build(&flow(10)));
}

#[test]
fn datagrams_of_one_flow_become_one_superpacket() {
    let packets: Vec<Vec<u8>> = (0_u16..20)
        .map(|index| PacketBuilder::udp(SRC, DST).payload(&[9; 64]).id(1 + index).build())
        .collect();
    let written = coalesce(&packets);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].0.gso, Some(Gso::Udp { gso_size: 64 }));
    assert_eq!(split_all(&written), packets);
}

#[test]
fn flows_in_one_buffer_are_told_apart() {
    let (one, other) = (build(&flow(4)), build(&flow_from("10.1.15.2:4001", 4)));
    let packets: Vec<Vec<u8>> =
        one.iter().zip(&other).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let written = coalesce(&packets);
    assert_eq!(written.len(), 2);
    assert_eq!(split_all(&written[..1]), one);
    assert_eq!(split_all(&written[1..]), other);
}

#[test]
fn short_segment_ends_its_superpacket() {
    let mut builders = flow(4);
    builders[1] = builders[1].clone().payload(&[1; 40]);
    builders[2] = builders[2].clone().sequence(7140, 1);
    builders[3] = builders[3].clone().sequence(7240, 1);
    let written = coalesce(&build(&builders));
    assert_eq!(written.len(), 2);
    assert_eq!(split_all(&written), build(&builders));
}

#[test]
fn push_is_carried_over_and_ends_nothing() {
    let mut builders = flow(3);
    builders[1] = builders[1].clone().flags(tcp::ACK_FLAG | tcp::PSH);
    let written = coalesce(&build(&builders));
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].1[20 + tcp::FLAGS], tcp::ACK_FLAG | tcp::PSH);
}

/// Whether the second of two segments, changed by `change`, is still merged with the first.
fn merges(change: impl Fn(PacketBuilder) -> PacketBuilder) -> bool {
    let builders = flow(2);
    let packets = [builders[0].build(), change(builders[1].clone()).build()];
    let written = coalesce(&packets);
    assert_eq!(split_all(&written), packets, "nothing is changed either way");
    written.len() == 1
}

#[test]
fn only_what_can_be_split_again_is_merged() {
    assert!(merges(|builder| builder));
    assert!(!merges(|builder| builder.sequence(7101, 1)), "a gap");
    assert!(!merges(|builder| builder.sequence(7100, 2)), "another ack");
    assert!(!merges(|builder| builder.id(502)), "an ID out of sequence without DF");
    assert!(!merges(|builder| builder.ttl(63)), "another TTL");
    assert!(!merges(|builder| builder.tos(2)), "another ECN mark");
    assert!(!merges(|builder| builder.fragment(ipv4::DF)), "another DF");
    assert!(!merges(|builder| builder.payload(&[0; 101])), "longer than the first");
    assert!(!merges(|builder| builder.payload(&[])), "no payload");
    assert!(!merges(|builder| builder.tcp_options(&[1; 12])), "other options");
    assert!(!merges(|builder| builder.tcp_options(&[])), "no options");
    for flags in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        assert!(!merges(|builder| builder.flags(tcp::ACK_FLAG | flags)), "flag {flags:#x}");
    }
    assert!(!merges(|builder| builder.flags(0)), "no ACK");
}

#[test]
fn id_may_be_anything_with_df() {
    let builders: Vec<_> =
        flow(3).into_iter().map(|builder| builder.fragment(ipv4::DF).id(0)).collect();
    assert_eq!(coalesce(&build(&builders)).len(), 1);
}

#[test]
fn wrong_checksum_is_never_merged() {
    for wrong in 0..3 {
        let mut packets = build(&flow(3));
        packets[wrong][60] ^= 0xff;
        let written = coalesce(&packets);
        assert_eq!(split_all(&written), packets, "packet {wrong} comes out as wrong as it came");
    }
}

#[test]
fn packet_that_cannot_be_merged_keeps_its_place_in_the_flow() {
    let mut builders = flow(6);
    builders[3] = builders[3].clone().flags(tcp::ACK_FLAG | 0x20); // URG
    let written = coalesce(&build(&builders));
    assert_eq!(written.len(), 3);
    assert_eq!(split_all(&written), build(&builders));
}

#[test]
fn fragments_are_left_alone_and_nothing_overtakes_them() {
    let fragment = PacketBuilder::udp(SRC, DST).payload(&[0; 24]).fragment(ipv4::MF).build();
    let mut packets = build(&flow(4));
    packets.insert(2, fragment);
    let written = coalesce(&packets);
    assert_eq!(written.len(), 3);
    assert_eq!(split_all(&written), packets);
}

#[test]
fn nested_tunnels_and_unchecked_datagrams_stay_out_of_superpackets() {
    for dst in ["10.1.16.2:4789", "10.1.16.2:8472"] {
        let datagram = |id| PacketBuilder::udp(SRC, dst).payload(&[1; 50]).id(id).build();
        assert_eq!(coalesce(&[datagram(1), datagram(2)]).len(), 2);
    }
    let unchecked = |id| {
        let mut packet = PacketBuilder::udp(SRC, DST).payload(&[1; 50]).id(id).build();
        packet[26..28].fill(0);
        packet
    };
    assert_eq!(coalesce(&[unchecked(1), unchecked(2)]).len(), 2);
}

#[test]
fn offload_that_is_off_merges_nothing() {
    assert_eq!(coalesce_with(Offloads::OFF, &build(&flow(5))).len(), 5);
    let tcp_only = Offloads { uso: false, ..Offloads::AUTO };
    let datagram = |id| PacketBuilder::udp(SRC, DST).payload(&[1; 50]).id(id).build();
    assert_eq!(coalesce_with(tcp_only, &[datagram(1), datagram(2)]).len(), 2);
    assert_eq!(coalesce_with(tcp_only, &build(&flow(5))).len(), 1);
}

#[test]
fn superpacket_grows_no_longer_than_a_packet_may_be() {
    let builders: Vec<_> = (0..50_u16)
        .map(|index| {
            let sequence = 1 + 1420 * u32::from(index);
            PacketBuilder::tcp(SRC, DST)
                .tcp_options(&TIMESTAMP)
                .payload(&[3; 1420])
                .id(index)
                .sequence(sequence, 1)
        })
        .collect();
    let written = coalesce(&build(&builders));
    assert_eq!(written.len(), 2);
    assert_eq!(written[0].1.len(), 52 + 46 * 1420);
    assert_eq!(split_all(&written), build(&builders));
}

/// A packet of one of a few flows, with fields that sometimes stop it from being merged.
fn any_packet() -> impl Strategy<Value = (u8, bool, u8, usize)> {
    (0_u8..3, any::<bool>(), 0_u8..20, 1_usize..120)
}

proptest! {
    /// split ∘ coalesce gives every flow's packets back, in their order.
    #[test]
    fn every_flow_comes_out_as_it_came(kinds in prop::collection::vec(any_packet(), 1..120)) {
        let mut next = [1_u32; 6];
        let mut ids = [1_u16; 6];
        let packets: Vec<Vec<u8>> = kinds.iter().map(|&(flow, is_tcp, oddity, len)| {
            let index = usize::from(flow) + 3 * usize::from(is_tcp);
            let src = format!("10.1.15.2:{}", 4000 + u16::from(flow));
            let len = if oddity < 12 { 100 } else { len };
            let builder = if is_tcp { PacketBuilder::tcp(&src, DST) } else { PacketBuilder::udp(&src, DST) };
            let builder = builder.payload(&vec![oddity; len]).sequence(next[index], 1).id(ids[index]);
            next[index] += u32::try_from(len).unwrap();
            ids[index] += 1;
            let builder = match oddity {
                13 => builder.flags(tcp::ACK_FLAG | tcp::FIN),
                14 => builder.ttl(9),
                15 => builder.id(7777),
                16 => builder.tos(4),
                17 => builder.fragment(ipv4::DF),
                _ => builder,
            };
            let mut packet = builder.build();
            if oddity == 18 {
                let last = packet.len() - 1;
                packet[last] ^= 0x55;
            }
            packet
        }).collect();
        let written = split_all(&coalesce(&packets));
        for flow in 4000_u16..4003 {
            for protocol in [protocol::TCP, protocol::UDP] {
                let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    let of_flow = |packet: &&Vec<u8>| packet[9] == protocol && u16_at(packet, 20) == flow;
                    packets.iter().filter(of_flow).cloned().collect()
                };
                prop_assert_eq!(of_flow(&written), of_flow(&packets));
            }
        }
    }
}
