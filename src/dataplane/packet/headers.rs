//! Bytes of the inner headers: offsets of fields, and how to read and write them.
//!
//! ```text
//! IPv4 (RFC 791)                          TCP (RFC 9293)            UDP (RFC 768)
//!  0 version, IHL    8 TTL                 0 source port             0 source port
//!  1 TOS             9 protocol            2 destination port        2 destination port
//!  2 total length   10 header checksum     4 sequence number         4 length
//!  4 identification 12 source              8 acknowledgment          6 checksum
//!  6 flags, offset  16 destination        12 data offset, 13 flags
//!                                         14 window, 16 checksum, 18 urgent pointer
//! ```

use std::net::Ipv4Addr;

/// Shortest IPv4 header, and the length of one without options, in bytes.
pub const IPV4_HEADER_LEN: usize = 20;
/// Longest IPv4 and TCP headers together: both lengths are 4 bits of 32-bit words.
pub const MAX_HEADERS_LEN: usize = 60 + 60;
/// Longest IPv4 packet: the total length has 16 bits.
pub const MAX_PACKET_LEN: usize = 65_535;
/// Length of the outer headers, in bytes: IPv4 without options 20, UDP 8. `encapOverhead` in
/// flannel's `pkg/backend/udp/udp_network_amd64.go`.
pub const ENCAP_OVERHEAD_V4: u32 = 28;

/// Offsets into the IPv4 header.
pub mod ipv4 {
    #![expect(missing_docs, reason = "the drawing above says where each field stands")]
    pub const TOS: usize = 1;
    pub const TOTAL_LEN: usize = 2;
    pub const ID: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SRC: usize = 12;
    pub const DST: usize = 16;
    /// Flag in the 16-bit fragment field: do not fragment.
    pub const DF: u16 = 0x4000;
    /// Flag in the 16-bit fragment field: more fragments follow.
    pub const MF: u16 = 0x2000;
    /// The fragment offset, in units of 8 bytes.
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// Offsets into the TCP header.
pub mod tcp {
    #![expect(missing_docs, reason = "the drawing above says where each field stands")]
    pub const SEQUENCE: usize = 4;
    pub const ACK: usize = 8;
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const WINDOW: usize = 14;
    pub const CHECKSUM: usize = 16;
    pub const URGENT: usize = 18;
    pub const HEADER_LEN: usize = 20;
    pub const FIN: u8 = 0x01;
    pub const PSH: u8 = 0x08;
    pub const ACK_FLAG: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const CWR: u8 = 0x80;
}

/// Offsets into the UDP header.
pub mod udp {
    #![expect(missing_docs, reason = "the drawing above says where each field stands")]
    pub const LEN: usize = 4;
    pub const CHECKSUM: usize = 6;
    pub const HEADER_LEN: usize = 8;
}

/// IP protocol numbers (RFC 5237 and IANA's list).
pub mod protocol {
    #![expect(missing_docs, reason = "the names say it")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
}

/// The 16-bit field at `at`, in host order.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes the 16-bit field at `at` from host order.
#[inline]
pub fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The 32-bit field at `at`, in host order.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes the 32-bit field at `at` from host order.
#[inline]
pub fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The IPv4 address at `at`.
#[inline]
pub fn ipv4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32_at(bytes, at))
}
