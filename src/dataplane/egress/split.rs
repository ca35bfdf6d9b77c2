//! Superpacket → segments, with complete checksums. Egress, second stage. No I/O, no copy of
//! payload: a segment is a new header and a range of the superpacket.
//!
//! ```text
//! superpacket   | IPv4 | TCP | payload …………………………………………………………… |
//! segments      | IPv4'| TCP'| gso_size |
//!                             | IPv4'| TCP'| gso_size |    … the last may be shorter
//! ```

use std::ops::Range;

use crate::dataplane::packet::checksum::{Sum, write_ipv4_checksum};
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::headers::{
    MAX_HEADERS_LEN, ipv4, protocol, set_u16, set_u32, tcp, u16_at, u32_at, udp,
};
use crate::dataplane::packet::vnet_hdr::{Gso, PartialChecksum};
use crate::dataplane::stats::drop_reason::DropReason;

/// One segment: its own headers, and where its payload lies in the superpacket.
#[derive(Debug)]
pub struct Segment {
    headers: [u8; MAX_HEADERS_LEN],
    headers_len: usize,
    /// Range of the superpacket's bytes.
    pub payload: Range<usize>,
}

impl Segment {
    /// IPv4 and TCP or UDP headers, complete.
    pub fn headers(&self) -> &[u8] {
        &self.headers[..self.headers_len]
    }

    /// Length of the segment as one IP packet, in bytes.
    pub fn packet_len(&self) -> usize {
        self.headers_len + self.payload.len()
    }
}

/// Which header follows the IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// Cuts a superpacket into segments, first to last.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    inner: Inner,
    transport: Transport,
    headers_len: usize,
    gso_size: usize,
    /// Payload bytes already returned.
    done: usize,
    num_done: u16,
}

impl<'a> Split<'a> {
    /// Prepares to cut `packet`, whose IPv4 header `inner` describes. Every segment carries the
    /// superpacket's TTL, so decrement that first.
    ///
    /// # Errors
    /// [`DropReason::BadSuperpacket`] when `gso` does not fit the packet.
    pub fn new(packet: &'a [u8], inner: Inner, gso: Gso) -> Result<Self, DropReason> {
        let (transport, gso_size) = match gso {
            Gso::Tcp4 { gso_size } => (Transport::Tcp, gso_size),
            Gso::Udp { gso_size } => (Transport::Udp, gso_size),
        };
        let expected = match transport {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
        };
        if inner.protocol != expected || inner.is_fragment || gso_size == 0 {
            return Err(DropReason::BadSuperpacket);
        }
        // vnet_hdr.hdr_len of a forwarded packet is not reliable: parse the headers instead.
        let transport_len = match transport {
            Transport::Udp => udp::HEADER_LEN,
            Transport::Tcp => match packet.get(inner.header_len + tcp::DATA_OFFSET) {
                Some(byte) => usize::from(byte >> 4) * 4,
                None => return Err(DropReason::BadSuperpacket),
            },
        };
        let headers_len = inner.header_len + transport_len;
        let too_short = transport == Transport::Tcp && transport_len < tcp::HEADER_LEN;
        if too_short || headers_len > packet.len() {
            return Err(DropReason::BadSuperpacket);
        }
        let gso_size = usize::from(gso_size);
        Ok(Self { packet, inner, transport, headers_len, gso_size, done: 0, num_done: 0 })
    }

    /// Length of the longest segment, which is the first, as one IP packet, in bytes.
    pub const fn longest_packet_len(&self) -> usize {
        let payload_len = self.packet.len() - self.headers_len;
        let first_len = if payload_len < self.gso_size { payload_len } else { self.gso_size };
        self.headers_len + first_len
    }

    fn write_headers(&self, headers: &mut [u8], payload: &[u8], is_last: bool) {
        let (ip, l4) = headers.split_at_mut(self.inner.header_len);
        #[expect(clippy::cast_possible_truncation, reason = "no longer than the superpacket")]
        let (packet_len, l4_len) =
            ((ip.len() + l4.len() + payload.len()) as u16, (l4.len() + payload.len()) as u16);
        set_u16(ip, ipv4::TOTAL_LEN, packet_len);
        set_u16(ip, ipv4::ID, u16_at(ip, ipv4::ID).wrapping_add(self.num_done));
        write_ipv4_checksum(ip);

        let checksum_at = match self.transport {
            Transport::Tcp => {
                #[expect(clippy::cast_possible_truncation, reason = "below 65,536")]
                let sequence = u32_at(l4, tcp::SEQUENCE).wrapping_add(self.done as u32);
                set_u32(l4, tcp::SEQUENCE, sequence);
                // As tcp_gso_segment() in net/ipv4/tcp_offload.c.
                if !is_last {
                    l4[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
                if self.num_done > 0 {
                    l4[tcp::FLAGS] &= !tcp::CWR;
                    self.move_urgent_pointer(l4);
                }
                tcp::CHECKSUM
            }
            Transport::Udp => {
                set_u16(l4, udp::LEN, l4_len);
                udp::CHECKSUM
            }
        };
        l4[checksum_at..checksum_at + 2].fill(0);
        let Inner { src, dst, protocol, .. } = self.inner;
        let sum = Sum::of_pseudo_header(src, dst, protocol, l4_len)
            .plus(Sum::of(l4))
            .plus(Sum::of(payload));
        l4[checksum_at..checksum_at + 2].copy_from_slice(&transport_checksum(sum, protocol));
    }

    /// Adjusts the urgent pointer, which counts from the segment's own sequence number (RFC 9293
    /// §3.1), and clears URG in segments behind the urgent byte.
    fn move_urgent_pointer(&self, l4: &mut [u8]) {
        if l4[tcp::FLAGS] & tcp::URG == 0 {
            return;
        }
        let left = usize::from(u16_at(l4, tcp::URGENT)).saturating_sub(self.done);
        set_u16(l4, tcp::URGENT, u16::try_from(left).unwrap_or(u16::MAX));
        if left == 0 {
            l4[tcp::FLAGS] &= !tcp::URG;
        }
    }
}

impl Iterator for Split<'_> {
    type Item = Segment;

    #[inline]
    fn next(&mut self) -> Option<Segment> {
        let payload_len = self.packet.len() - self.headers_len;
        // A superpacket without payload is still one packet.
        if self.done >= payload_len && self.num_done > 0 {
            return None;
        }
        let end = (self.done + self.gso_size).min(payload_len);
        let payload = self.headers_len + self.done..self.headers_len + end;
        let mut segment =
            Segment { headers: [0; MAX_HEADERS_LEN], headers_len: self.headers_len, payload };
        let headers = &mut segment.headers[..self.headers_len];
        headers.copy_from_slice(&self.packet[..self.headers_len]);
        self.write_headers(headers, &self.packet[segment.payload.clone()], end == payload_len);
        self.done = end;
        self.num_done = self.num_done.wrapping_add(1);
        Some(segment)
    }
}

/// Completes the checksum that the kernel left partial: the field holds the pseudo header's sum.
///
/// # Errors
/// [`DropReason::BadSuperpacket`] when the field lies outside the packet or in its IPv4 header.
pub fn complete_checksum(
    packet: &mut [u8],
    protocol: u8,
    partial: PartialChecksum,
) -> Result<(), DropReason> {
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    let header_len = usize::from(packet.first().map_or(0, |byte| byte & 0xf)) * 4;
    if start < header_len || at + 2 > packet.len() {
        return Err(DropReason::BadSuperpacket);
    }
    let checksum = transport_checksum(Sum::of(&packet[start..]), protocol);
    packet[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

/// The checksum of `sum`. A UDP checksum of 0 would mean "none", so 0xffff is sent, which has the
/// same value in one's complement (RFC 768).
fn transport_checksum(sum: Sum, protocol: u8) -> [u8; 2] {
    match sum.checksum() {
        [0, 0] if protocol == protocol::UDP => [0xff, 0xff],
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests;
