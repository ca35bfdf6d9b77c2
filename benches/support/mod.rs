//! What benches and the allocation test share: packets, and a worker between devices in memory.
#![allow(unreachable_pub, dead_code, reason = "every target uses a part of it")]

pub mod measured;
pub mod node;

use ipnetwork::Ipv4Network;

use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VnetHdr};
use twill::routes::{NextHop, Route, RouteTable};

/// Payload of a TCP segment with timestamps in an overlay of MTU 1472.
pub const MSS: usize = 1420;

/// Segments of a full superpacket, and of a full receive buffer.
pub const NUM_SEGMENTS: usize = 44;

/// Segments of one TCP flow to the node, as the wire carries them.
pub fn segments() -> Vec<Vec<u8>> {
    let segment = |index: usize| {
        let sequence = u32::try_from(index * MSS).unwrap();
        tcp("10.1.15.2:4000", "10.1.16.2:5001")
            .fragment(0x4000)
            .sequence(sequence, 1)
            .payload(&[7; MSS])
            .build()
    };
    (0..NUM_SEGMENTS).map(segment).collect()
}

/// Datagrams of one UDP flow to the node, 64 bytes each with their headers.
pub fn datagrams(num: usize) -> Vec<Vec<u8>> {
    let datagram = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:53").fragment(0x4000);
    vec![datagram.payload(&[1; 36]).build(); num]
}

/// A TCP superpacket from a pod of the node to a peer's, as the TUN delivers it.
pub fn superpacket() -> (VnetHdr, Vec<u8>) {
    let payload = vec![7; MSS * NUM_SEGMENTS];
    let packet = tcp("10.1.16.2:4000", "10.1.17.2:5001").payload(&payload).build();
    let gso = Some(Gso::Tcp4 { gso_size: 1420 });
    let checksum = Some(PartialChecksum { start: 20, offset: 16 });
    (VnetHdr { gso, checksum, header_len: 52 }, packet)
}

/// A small packet from a pod of the node to a peer's.
pub fn small() -> (VnetHdr, Vec<u8>) {
    let packet = PacketBuilder::udp("10.1.16.2:4000", "10.1.17.2:53").payload(&[1; 36]).build();
    (VnetHdr::default(), packet)
}

/// The whole overlay.
pub fn network() -> Ipv4Network {
    "10.1.0.0/16".parse().unwrap()
}

/// The node's only route.
pub fn route() -> Route {
    let next_hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
    Route { subnet: "10.1.17.0/24".parse().unwrap(), next_hop }
}

/// The table of that route.
pub fn routes() -> RouteTable {
    RouteTable::build(network(), 24, [route()])
}

fn tcp(src: &str, dst: &str) -> PacketBuilder {
    PacketBuilder::tcp(src, dst).tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
}
