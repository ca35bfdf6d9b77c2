//! [`Candidate`]: a packet whose own headers allow merging.

use crate::dataplane::offload::Offloads;
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::headers::{IPV4_HEADER_LEN, protocol, tcp, u16_at, udp};

/// A packet that may be merged with other packets of its flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) protocol: u8,
    /// Length of the IPv4 and transport headers, in bytes.
    pub(super) headers_len: usize,
    pub(super) payload_len: usize,
}

impl Candidate {
    /// `packet` as a candidate, if its headers and the `offloads` in use allow merging.
    #[inline]
    pub(super) fn new(packet: &[u8], inner: &Inner, offloads: Offloads) -> Option<Self> {
        if inner.header_len != IPV4_HEADER_LEN {
            return None;
        }
        let l4 = &packet[IPV4_HEADER_LEN..];
        let transport_len = match inner.protocol {
            protocol::TCP if offloads.tso && is_plain_tcp(l4) => {
                usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4
            }
            protocol::UDP if offloads.uso && is_plain_udp(l4) => udp::HEADER_LEN,
            _ => return None,
        };
        let headers_len = IPV4_HEADER_LEN + transport_len;
        let payload_len = packet.len().checked_sub(headers_len).filter(|&len| len > 0)?;
        Some(Self { protocol: inner.protocol, headers_len, payload_len })
    }
}

/// Whether this is a TCP header of a data segment: ACK, perhaps PSH, no other flag.
fn is_plain_tcp(l4: &[u8]) -> bool {
    l4.len() >= tcp::HEADER_LEN
        && usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4 >= tcp::HEADER_LEN
        && l4[tcp::FLAGS] & !tcp::PSH == tcp::ACK_FLAG
}

/// Whether this is a UDP header of a complete datagram with a checksum, and not VXLAN: kernels
/// before 6.8.5 corrupt a VXLAN datagram within a UDP superpacket.
fn is_plain_udp(l4: &[u8]) -> bool {
    const VXLAN_PORTS: [u16; 2] = [4789, 8472];
    l4.len() >= udp::HEADER_LEN
        && usize::from(u16_at(l4, udp::LEN)) == l4.len()
        && u16_at(l4, udp::CHECKSUM) != 0
        && !VXLAN_PORTS.contains(&u16_at(l4, 2))
}
