//! Whether the program at the underlay's ingress takes a datagram: what `bpf/datagram.h` and
//! `bpf/ingress.h` decide, for captures, which see a datagram before the program does.

use std::net::Ipv4Addr;

use super::config::FastConfig;
use crate::dataplane::packet::checksum::Sum;
use crate::dataplane::packet::headers::{
    ENCAP_OVERHEAD_V4, IPV4_HEADER_LEN, ipv4, ipv4_at, protocol, u16_at,
};

/// Bytes of the headers before an inner packet.
const OUTER_LEN: usize = ENCAP_OVERHEAD_V4 as usize;

/// Whether it takes the datagram of `len` bytes that begins with these `bytes`. `peer_of` has the peer
/// with the subnet of an address.
///
/// A packet of TCP that is longer than the overlay's MTU counts as a superpacket, whose segments are
/// shorter: single ones of that length our own MTU keeps peers' TCP from making.
pub(super) fn is_taken(
    config: &FastConfig,
    peer_of: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>,
    bytes: &[u8],
    len: usize,
) -> bool {
    let Some((outer, rest)) = bytes.split_at_checked(IPV4_HEADER_LEN) else { return false };
    let Some((udp, inner)) = rest.split_at_checked(OUTER_LEN - IPV4_HEADER_LEN) else {
        return false;
    };
    let Some(inner) = inner.get(..IPV4_HEADER_LEN) else { return false };
    let (src, dst) = (ipv4_at(inner, ipv4::SRC), ipv4_at(inner, ipv4::DST));
    let (inner_len, carried) = (len - OUTER_LEN, inner[ipv4::PROTOCOL]);
    let is_for_us = is_plain(outer, len)
        && outer[ipv4::PROTOCOL] == protocol::UDP
        && ipv4_at(outer, ipv4::DST) == config.underlay_addr
        && u16_at(udp, 2) == config.port;
    let is_of_kernel = u16_at(udp, 6) == 0 && usize::from(u16_at(udp, 4)) == len - IPV4_HEADER_LEN;
    is_for_us
        && is_of_kernel
        && is_plain(inner, inner_len)
        && [protocol::TCP, protocol::ICMP, protocol::UDP].contains(&carried)
        && config.is_own(dst)
        && !config.is_own(src)
        && peer_of(src) == Some(ipv4_at(outer, ipv4::SRC))
        && inner[ipv4::TTL] > 1
        && (inner_len <= usize::from(config.overlay_mtu) || carried == protocol::TCP)
}

/// Whether a header of `len` bytes and what follows it has no options, is in one piece, and has a right
/// checksum.
fn is_plain(header: &[u8], len: usize) -> bool {
    header[0] == 0x45
        && usize::from(u16_at(header, ipv4::TOTAL_LEN)) == len
        && u16_at(header, ipv4::FRAGMENT) & (ipv4::MF | ipv4::OFFSET_MASK) == 0
        && Sum::of(header).is_valid()
}
