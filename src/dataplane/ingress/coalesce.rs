//! Segments of one flow → superpacket. Ingress, last stage before the TUN. No I/O, no copy of
//! payload: a superpacket is one fresh header and ranges of the received buffers.
//!
//! Packets are written in the order in which the first segment of each came, so the packets of a
//! flow never overtake each other. Merging follows the kernel's GRO (`net/ipv4/tcp_offload.c`):
//! what cannot be split again into the very same packets is left alone. One difference: a set
//! PSH does not end a superpacket, it is carried over to it.

use std::io::IoSlice;

use crate::dataplane::io::recv_batch::RecvBatch;
use crate::dataplane::offload::{Offload, Offloads};
use crate::dataplane::packet::checksum::{Sum, write_ipv4_checksum};
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::flow;
use crate::dataplane::packet::headers::{
    IPV4_HEADER_LEN, MAX_HEADERS_LEN, MAX_PACKET_LEN, ipv4, ipv4_at, protocol, set_u16, tcp,
    u16_at, u32_at, udp,
};
use crate::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VNET_HDR_LEN, VnetHdr};

/// Most segments of one superpacket: as many as one received buffer holds.
pub const MAX_SEGMENTS: usize = 64;

/// Pieces of one write: vnet header, packet header, then a payload for each segment.
pub const MAX_PIECES: usize = 2 + MAX_SEGMENTS;

/// Where one inner packet stands in a [`RecvBatch`].
#[derive(Debug, Clone, Copy)]
pub struct PacketAt {
    /// Number of the buffer.
    pub buffer: usize,
    /// First byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl PacketAt {
    /// The packet's bytes.
    #[inline]
    pub fn bytes<'a>(&self, batch: &'a RecvBatch) -> &'a [u8] {
        &batch.buffer(self.buffer)[self.start..self.start + self.len]
    }
}

/// A packet that may be merged with its neighbours.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    protocol: u8,
    headers_len: usize,
    payload_len: usize,
}

/// One write to the TUN: a packet as it came, or a superpacket.
#[derive(Debug, Default)]
pub struct Outgoing {
    segments: Vec<PacketAt>,
    protocol: u8,
    /// Length of the IPv4 and transport headers, the same for every segment.
    headers_len: usize,
    /// Payload bytes of the first segment, and of every other but the last.
    gso_size: usize,
    /// Payload bytes of all segments together.
    payload_len: usize,
    /// PSH, if any segment had it.
    push: u8,
    /// The first segment's checksum was found right.
    is_verified: bool,
    /// Takes no more segments.
    is_sealed: bool,
}

/// Slots of the table that finds a flow's open superpacket. Two flows in one slot only cost
/// merging, never order.
const NUM_SLOTS: usize = 256;
const NO_ITEM: u16 = u16::MAX;

/// Collects the packets of one receive call.
#[derive(Debug)]
pub struct Coalescer {
    items: Vec<Outgoing>,
    /// How many of `items` are in use; the others keep their memory.
    num_items: usize,
    slots: [u16; NUM_SLOTS],
    offloads: Offloads,
}

impl Coalescer {
    /// An empty collection that merges TCP if `offloads.tso`, UDP if `offloads.uso`.
    pub fn new(offloads: Offloads) -> Self {
        Self { items: Vec::new(), num_items: 0, slots: [NO_ITEM; NUM_SLOTS], offloads }
    }

    /// Merges further packets as far as `offloads` allows.
    pub fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    /// What is to be written, in order.
    pub fn items(&self) -> &[Outgoing] {
        &self.items[..self.num_items]
    }

    /// Forgets everything, for the next receive call.
    pub fn clear(&mut self) {
        self.num_items = 0;
        self.slots.fill(NO_ITEM);
    }

    /// Takes the packet at `at`, which `inner` describes.
    #[inline]
    pub fn push(&mut self, batch: &RecvBatch, at: PacketAt, inner: &Inner) {
        let packet = at.bytes(batch);
        if inner.is_fragment {
            // Of which flow a later fragment is, nobody knows: let nothing overtake it.
            self.slots.fill(NO_ITEM);
            self.open(at, None);
            return;
        }
        let slot = slot_of(packet, inner);
        let candidate = self.candidate(packet, inner);
        if let Some(candidate) = candidate
            && let Some(item) = self.items.get_mut(usize::from(self.slots[slot]))
            && item.append(batch, at, packet, candidate)
        {
            return;
        }
        let index = self.open(at, candidate);
        // A packet that cannot be merged closes its flow's superpacket too: order within the flow.
        self.slots[slot] = if candidate.is_some() { index } else { NO_ITEM };
    }

    /// Starts a new item with the packet at `at`; returns its number.
    fn open(&mut self, at: PacketAt, candidate: Option<Candidate>) -> u16 {
        if self.num_items == self.items.len() {
            self.items.push(Outgoing::default());
        }
        self.items[self.num_items].start(at, candidate);
        self.num_items += 1;
        u16::try_from(self.num_items - 1).unwrap_or(NO_ITEM)
    }

    /// Whether the packet may be merged at all, by what its own headers say.
    #[inline]
    fn candidate(&self, packet: &[u8], inner: &Inner) -> Option<Candidate> {
        if inner.header_len != IPV4_HEADER_LEN {
            return None;
        }
        let l4 = &packet[IPV4_HEADER_LEN..];
        let transport_len = match inner.protocol {
            protocol::TCP if self.offloads.tso && is_plain_tcp(l4) => {
                usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4
            }
            protocol::UDP if self.offloads.uso && is_plain_udp(l4) => udp::HEADER_LEN,
            _ => return None,
        };
        let headers_len = IPV4_HEADER_LEN + transport_len;
        let payload_len = packet.len().checked_sub(headers_len).filter(|&len| len > 0)?;
        Some(Candidate { protocol: inner.protocol, headers_len, payload_len })
    }
}

/// A TCP header that stands for nothing but data: ACK, perhaps PSH, no other flag.
fn is_plain_tcp(l4: &[u8]) -> bool {
    l4.len() >= tcp::HEADER_LEN
        && usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4 >= tcp::HEADER_LEN
        && l4[tcp::FLAGS] & !tcp::PSH == tcp::ACK_FLAG
}

/// A UDP header whose datagram is whole and checksummed, and no tunnel's: kernels before 6.8.5
/// corrupt a VXLAN datagram within a UDP superpacket.
fn is_plain_udp(l4: &[u8]) -> bool {
    const VXLAN_PORTS: [u16; 2] = [4789, 8472];
    l4.len() >= udp::HEADER_LEN
        && usize::from(u16_at(l4, udp::LEN)) == l4.len()
        && u16_at(l4, udp::CHECKSUM) != 0
        && !VXLAN_PORTS.contains(&u16_at(l4, 2))
}

/// The slot of the packet's flow.
#[inline]
fn slot_of(packet: &[u8], inner: &Inner) -> usize {
    usize::from(flow::hash(packet, inner).to_be_bytes()[0])
}

impl Outgoing {
    fn start(&mut self, at: PacketAt, candidate: Option<Candidate>) {
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

    /// Appends the packet at `at` if the superpacket, split again, would give it back.
    #[inline]
    fn append(&mut self, batch: &RecvBatch, at: PacketAt, packet: &[u8], new: Candidate) -> bool {
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
        // A superpacket's checksum is computed anew, so a wrong one must not get in.
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
        // The flags are known to be equal but for PSH: is_plain_tcp().
        u32_at(packet, at(tcp::SEQUENCE)) == sequence
            && same(at(tcp::ACK), at(tcp::FLAGS))
            && same(at(tcp::WINDOW), at(tcp::CHECKSUM))
            && same(at(tcp::URGENT), self.headers_len)
    }

    /// The packets that make up this write, in order.
    pub fn segments(&self) -> &[PacketAt] {
        &self.segments
    }

    /// Which offload this write needs: none if it is a single packet.
    pub fn offload(&self) -> Option<Offload> {
        let offload = if self.protocol == protocol::UDP { Offload::Uso } else { Offload::Tso };
        (self.segments.len() > 1).then_some(offload)
    }

    /// Length of the packets that make up this write, in bytes, as they came.
    pub fn packets_len(&self) -> usize {
        self.segments.iter().map(|at| at.len).sum()
    }

    /// Gathers what is to be written into `slices`, behind the encoded vnet header; returns the
    /// filled part. A superpacket's headers are made in `scratch`.
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

/// Where a superpacket's headers are made.
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

/// Whether the TCP or UDP checksum of a packet without IPv4 options is right.
fn has_valid_checksum(packet: &[u8]) -> bool {
    let (src, dst) = (ipv4_at(packet, ipv4::SRC), ipv4_at(packet, ipv4::DST));
    let l4 = &packet[IPV4_HEADER_LEN..];
    let Ok(l4_len) = u16::try_from(l4.len()) else { return false };
    Sum::of_pseudo_header(src, dst, packet[ipv4::PROTOCOL], l4_len).plus(Sum::of(l4)).is_valid()
}

#[cfg(test)]
mod tests;
