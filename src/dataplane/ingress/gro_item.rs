//! [`GroItem`]: one write to the TUN, a packet as it came or a superpacket.

use super::candidate::Candidate;
use super::packet_ref::PacketRef;
use crate::dataplane::io::recv_batch::RecvBatch;
use crate::dataplane::offload::Offload;
use crate::dataplane::packet::checksum::Sum;
use crate::dataplane::packet::headers::{
    IPV4_HEADER_LEN, MAX_PACKET_LEN, ipv4, ipv4_at, protocol, tcp, u16_at, u32_at,
};

mod gather;

pub use gather::{MAX_PIECES, Scratch, gather_plain};

/// Most segments of one superpacket: as many as one received buffer holds.
pub const MAX_SEGMENTS: usize = 64;

/// One write to the TUN: a packet as it came, or a superpacket.
#[derive(Debug, Default)]
pub struct GroItem {
    segments: Vec<PacketRef>,
    protocol: u8,
    /// Length of the IPv4 and transport headers, the same for every segment.
    headers_len: usize,
    /// Payload bytes of the first segment, and of all others except the last.
    gso_size: usize,
    /// Payload bytes of all segments together.
    payload_len: usize,
    /// PSH, if any segment had it.
    push: u8,
    /// The first segment's checksum was verified.
    is_verified: bool,
    /// Takes no more segments.
    is_sealed: bool,
}

impl GroItem {
    /// Begins with the packet at `at`. If it is no candidate, nothing is merged with it.
    pub(super) fn start(&mut self, at: PacketRef, candidate: Option<Candidate>) {
        self.segments.clear();
        self.segments.push(at);
        let Candidate { protocol, headers_len, payload_len } =
            candidate.unwrap_or(Candidate { protocol: 0, headers_len: 0, payload_len: 0 });
        self.protocol = protocol;
        self.headers_len = headers_len;
        self.gso_size = payload_len;
        self.payload_len = payload_len;
        self.push = 0;
        self.is_verified = false;
        self.is_sealed = candidate.is_none();
    }

    /// Appends the packet at `at` if splitting the superpacket again would give it back.
    #[inline]
    pub(super) fn append(
        &mut self,
        batch: &RecvBatch,
        at: PacketRef,
        packet: &[u8],
        new: Candidate,
    ) -> bool {
        let Some(&first_at) = self.segments.first() else { return false };
        let first = first_at.bytes(batch);
        let fits = !self.is_sealed
            && new.protocol == self.protocol
            && new.headers_len == self.headers_len
            && new.payload_len <= self.gso_size
            && self.headers_len + self.payload_len + new.payload_len <= MAX_PACKET_LEN;
        if !fits || !self.follows(first, packet) {
            return false;
        }
        // The superpacket gets a new checksum, which would hide a wrong one of a segment.
        if !self.is_verified {
            self.is_verified = has_valid_checksum(first);
        }
        if !self.is_verified || !has_valid_checksum(packet) {
            self.is_sealed = true;
            return false;
        }
        if self.protocol == protocol::TCP {
            let flags_at = IPV4_HEADER_LEN + tcp::FLAGS;
            self.push |= (first[flags_at] | packet[flags_at]) & tcp::PSH;
        }
        self.segments.push(at);
        self.payload_len += new.payload_len;
        self.is_sealed = new.payload_len < self.gso_size || self.segments.len() == MAX_SEGMENTS;
        true
    }

    /// Whether `packet` continues the superpacket that begins with `first`.
    #[inline]
    fn follows(&self, first: &[u8], packet: &[u8]) -> bool {
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_SEGMENTS")]
        let id = u16_at(first, ipv4::ID).wrapping_add(self.segments.len() as u16);
        let id_follows =
            u16_at(first, ipv4::FRAGMENT) & ipv4::DF != 0 || u16_at(packet, ipv4::ID) == id;
        let ip_agrees = id_follows
            && first[ipv4::TOS] == packet[ipv4::TOS]
            && same(ipv4::FRAGMENT, ipv4::CHECKSUM)
            && same(ipv4::SRC, IPV4_HEADER_LEN);
        // Source and destination port.
        if !ip_agrees || !same(IPV4_HEADER_LEN, IPV4_HEADER_LEN + 4) {
            return false;
        }
        if self.protocol == protocol::UDP {
            return true;
        }
        let at = |field: usize| IPV4_HEADER_LEN + field;
        #[expect(clippy::cast_possible_truncation, reason = "below 65,536")]
        let sequence = u32_at(first, at(tcp::SEQUENCE)).wrapping_add(self.payload_len as u32);
        // The flags are equal except for PSH: see `Candidate::new`.
        u32_at(packet, at(tcp::SEQUENCE)) == sequence
            && same(at(tcp::ACK), at(tcp::FLAGS))
            && same(at(tcp::WINDOW), at(tcp::CHECKSUM))
            && same(at(tcp::URGENT), self.headers_len)
    }

    /// The packets of this write, in order.
    pub fn segments(&self) -> &[PacketRef] {
        &self.segments
    }

    /// The offload that this write needs: none for a single packet.
    pub fn offload(&self) -> Option<Offload> {
        let offload = if self.protocol == protocol::UDP { Offload::Uso } else { Offload::Tso };
        (self.segments.len() > 1).then_some(offload)
    }

    /// Length of the packets of this write as they came, in bytes.
    pub fn packets_len(&self) -> usize {
        self.segments.iter().map(|at| at.len).sum()
    }
}

/// Whether the TCP or UDP checksum of a packet without IPv4 options is right.
fn has_valid_checksum(packet: &[u8]) -> bool {
    let (src, dst) = (ipv4_at(packet, ipv4::SRC), ipv4_at(packet, ipv4::DST));
    let l4 = &packet[IPV4_HEADER_LEN..];
    let Ok(l4_len) = u16::try_from(l4.len()) else { return false };
    Sum::of_pseudo_header(src, dst, packet[ipv4::PROTOCOL], l4_len).plus(Sum::of(l4)).is_valid()
}
