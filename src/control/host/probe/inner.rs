//! What a datagram to a backend's port holds: packets that harm no node.

use std::net::Ipv4Addr;

use super::echo::request;
use crate::dataplane::packet::checksum::write_ipv4_checksum;

/// Length of a packet of ours, in bytes.
const LEN: u16 = 84;

/// An inner packet for the udp backend: an ICMP echo request from `src` to `dst`, with `ttl`. With a TTL of 1
/// every node drops it without a word, stock nodes included.
pub fn echo_packet(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    let len = u16::try_from(20 + message.len()).unwrap_or(LEN);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[8] = ttl;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&src.octets());
    packet[16..20].copy_from_slice(&dst.octets());
    write_ipv4_checksum(&mut packet);
    packet.extend_from_slice(message);
    packet
}

/// For the vxlan backend: a header that names no network, which the kernel drops (RFC 7348,
/// section 5).
pub fn vxlan_packet() -> Vec<u8> {
    vec![0; 8]
}

/// A packet that no node answers or forwards.
pub(super) fn silent_packet(dst: Ipv4Addr) -> Vec<u8> {
    echo_packet(Ipv4Addr::new(192, 0, 2, 1), dst, 1, &request(0, 0, LEN))
}
