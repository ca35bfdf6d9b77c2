//! The bytes of one write: vnet header, packet headers, payloads.

use std::io::IoSlice;

use super::{GroItem, MAX_SEGMENTS};
use crate::dataplane::io::recv_batch::RecvBatch;
use crate::dataplane::packet::checksum::{Sum, write_ipv4_checksum};
use crate::dataplane::packet::headers::{
    IPV4_HEADER_LEN, MAX_HEADERS_LEN, ipv4, ipv4_at, protocol, set_u16, tcp, udp,
};
use crate::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VNET_HDR_LEN, VnetHdr};

/// Pieces of one write: vnet header, packet headers, then a payload for each segment.
pub const MAX_PIECES: usize = 2 + MAX_SEGMENTS;

/// Room for a superpacket's new headers.
#[derive(Debug)]
pub struct Scratch {
    vnet_hdr: [u8; VNET_HDR_LEN],
    headers: [u8; MAX_HEADERS_LEN],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { vnet_hdr: [0; VNET_HDR_LEN], headers: [0; MAX_HEADERS_LEN] }
    }
}

impl GroItem {
    /// Gathers what is to be written into `slices`, behind the encoded vnet header; returns the
    /// filled part. A superpacket's new headers are made in `scratch`.
    pub fn gather<'s, 'a>(
        &self,
        batch: &'a RecvBatch,
        scratch: &'a mut Scratch,
        slices: &'s mut [IoSlice<'a>; MAX_PIECES],
    ) -> &'s [IoSlice<'a>] {
        let Some((first, _)) = self.segments.split_first() else { return &[] };
        if self.segments.len() == 1 {
            return gather_plain(first.bytes(batch), slices);
        }
        scratch.vnet_hdr = self.vnet_hdr().encode();
        let headers = &mut scratch.headers[..self.headers_len];
        headers.copy_from_slice(&first.bytes(batch)[..self.headers_len]);
        self.write_headers(headers);
        slices[0] = IoSlice::new(&scratch.vnet_hdr);
        slices[1] = IoSlice::new(&scratch.headers[..self.headers_len]);
        for (slice, at) in slices[2..].iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(&at.bytes(batch)[self.headers_len..]);
        }
        &slices[..2 + self.segments.len()]
    }

    fn vnet_hdr(&self) -> VnetHdr {
        let gso_size = u16::try_from(self.gso_size).unwrap_or(u16::MAX);
        let (gso, offset) = if self.protocol == protocol::UDP {
            (Gso::Udp { gso_size }, udp::CHECKSUM)
        } else {
            (Gso::Tcp4 { gso_size }, tcp::CHECKSUM)
        };
        #[expect(clippy::cast_possible_truncation, reason = "offsets into headers")]
        let checksum = PartialChecksum { start: IPV4_HEADER_LEN as u16, offset: offset as u16 };
        let header_len = u16::try_from(self.headers_len).unwrap_or(u16::MAX);
        VnetHdr { gso: Some(gso), checksum: Some(checksum), header_len }
    }

    /// Turns the first segment's headers into the superpacket's.
    fn write_headers(&self, headers: &mut [u8]) {
        let (ip, l4) = headers.split_at_mut(IPV4_HEADER_LEN);
        let packet_len = self.headers_len + self.payload_len;
        #[expect(clippy::cast_possible_truncation, reason = "append() keeps to MAX_PACKET_LEN")]
        let (packet_len, l4_len) = (packet_len as u16, (packet_len - IPV4_HEADER_LEN) as u16);
        set_u16(ip, ipv4::TOTAL_LEN, packet_len);
        write_ipv4_checksum(ip);
        let checksum_at = if self.protocol == protocol::UDP {
            set_u16(l4, udp::LEN, l4_len);
            udp::CHECKSUM
        } else {
            l4[tcp::FLAGS] |= self.push;
            tcp::CHECKSUM
        };
        // With NEEDS_CSUM the field holds the pseudo header's sum, not complemented.
        let (src, dst) = (ipv4_at(ip, ipv4::SRC), ipv4_at(ip, ipv4::DST));
        let pseudo = Sum::of_pseudo_header(src, dst, self.protocol, l4_len).fold();
        l4[checksum_at..checksum_at + 2].copy_from_slice(&pseudo);
    }
}

/// Gathers one packet as it came, behind the vnet header of a plain packet.
pub fn gather_plain<'s, 'a>(
    packet: &'a [u8],
    slices: &'s mut [IoSlice<'a>; MAX_PIECES],
) -> &'s [IoSlice<'a>] {
    slices[0] = IoSlice::new(&[0; VNET_HDR_LEN]);
    slices[1] = IoSlice::new(packet);
    &slices[..2]
}
