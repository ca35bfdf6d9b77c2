//! Inner packet → datagrams for its peer. Egress, between the TUN and the socket; no I/O.
//!
//! Packets stay where they were read, one behind the other in an arena. Datagrams to send are
//! ranges of the arena; segments of a superpacket have new headers in front of the range.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::recursion::RecursionGuard;
use super::send_queue::SendQueue;
use super::split::{Split, complete_checksum};
use crate::dataplane::io::underlay_error::Quote;
use crate::dataplane::io::underlay_flow::{TrafficClass, UnderlayFlow};
use crate::dataplane::packet::checksum::decrement_ttl;
use crate::dataplane::packet::classify;
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::flow::hash as flow_hash;
use crate::dataplane::packet::headers::{MAX_PACKET_LEN, ipv4, u16_at};
use crate::dataplane::packet::vnet_hdr::{Gso, VnetHdr};
use crate::dataplane::pmtu::{PathMtus, Treatment};
use crate::dataplane::stats::drop_reason::DropReason;
use crate::routes::{NextHop, RouteTable};

/// Length of the arena, in bytes: the superpackets of a turn should still be in the second-level
/// cache when the kernel copies them.
const ARENA_LEN: usize = 512 << 10;

/// Length of the IPv6 header, and offset of its destination (RFC 8200 §3).
const IPV6_HEADER_LEN: usize = 40;
const IPV6_DST: usize = 24;

/// The egress pipeline from TUN to send queue.
#[derive(Debug)]
pub struct Encap {
    arena: Box<[u8]>,
    /// How many bytes of the arena queued datagrams refer to.
    used: usize,
    queue: SendQueue,
    guard: RecursionGuard,
    /// MTU of the path that the last refused packet was too long for.
    path_mtu: u16,
    /// Set if a probe of a path was queued: the peer, and the probe's first bytes.
    probe: Option<(Ipv4Addr, Quote)>,
}

impl Encap {
    /// An empty pipeline; with `gso`, many datagrams are packed into one batch.
    pub fn new(gso: bool) -> Self {
        let arena = vec![0; ARENA_LEN].into_boxed_slice();
        Self {
            arena,
            used: 0,
            queue: SendQueue::new(gso),
            guard: RecursionGuard::default(),
            path_mtu: 0,
            probe: None,
        }
    }

    /// Room for one more packet of any length, or `None` until the queue is sent.
    #[inline]
    pub fn room(&mut self) -> Option<&mut [u8]> {
        self.arena.get_mut(self.used..self.used + MAX_PACKET_LEN)
    }

    /// Puts the packet of `len` bytes, read to the start of [`room`](Self::room), into the send
    /// queue. Returns whether a batch is full, so that waiting for more packets gains nothing.
    ///
    /// # Errors
    /// Why the packet is dropped; it is still at the start of the room.
    #[inline]
    pub fn forward(
        &mut self,
        header: &VnetHdr,
        len: usize,
        routes: &RouteTable,
        paths: &PathMtus,
    ) -> Result<bool, DropReason> {
        let start = self.used;
        let packet = &mut self.arena[start..start + len];
        let inner = classify::inner(packet)?;
        if let (None, Some(partial)) = (header.gso, header.checksum) {
            complete_checksum(packet, inner.protocol, partial)?;
        }
        let next_hop = routes.lookup(inner.dst);
        let port = next_hop.map(|next_hop| next_hop.addr.port());
        if self.guard.finds(packet, &inner, port, routes) {
            return Err(DropReason::Recursion);
        }
        let next_hop = next_hop.ok_or(DropReason::NoRoute)?;
        if inner.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        let mut treatment = Treatment::Whole;
        if len > paths.narrowest() {
            treatment = paths.treatment(*next_hop.addr.ip(), longest(packet, inner, header.gso)?);
            if let Treatment::Refused(path_mtu) = treatment
                && u16_at(packet, ipv4::FRAGMENT) & ipv4::DF != 0
            {
                self.path_mtu = path_mtu;
                return Err(DropReason::TooBigForPath);
            }
        }
        decrement_ttl(packet);
        let flow = underlay_flow(next_hop, packet, &inner);
        let is_full = self.enqueue(start..start + len, inner, header.gso, flow, treatment)?;
        self.used = (start + len).next_multiple_of(64).min(ARENA_LEN);
        Ok(is_full)
    }

    /// Queues the packet in `range` of the arena, or its segments. Returns whether a batch is full.
    #[inline]
    fn enqueue(
        &mut self,
        range: Range<usize>,
        inner: Inner,
        gso: Option<Gso>,
        flow: UnderlayFlow,
        mut treatment: Treatment,
    ) -> Result<bool, DropReason> {
        let packet = &self.arena[range.clone()];
        let Some(gso) = gso else {
            if treatment == Treatment::Probe {
                self.probe = Some((*flow.dst.ip(), Quote::of(&[packet])));
            }
            return Ok(push(&mut self.queue, treatment, flow, &[], range));
        };
        let mut is_full = false;
        for segment in Split::new(packet, inner, gso)? {
            let payload = range.start + segment.payload.start..range.start + segment.payload.end;
            is_full |= push(&mut self.queue, treatment, flow, segment.headers(), payload);
            if treatment == Treatment::Probe {
                // Only one segment is a probe: a probe may be lost.
                let body = &packet[segment.payload.clone()];
                let first_bytes = Quote::of(&[segment.headers(), body]);
                self.probe = Some((*flow.dst.ip(), first_bytes));
                treatment = Treatment::InFragments;
            }
        }
        Ok(is_full)
    }

    /// The packet that [`forward`](Self::forward) just refused, for an ICMP error to quote: its
    /// description, and its first bytes as they would have been sent. Of a superpacket these are the
    /// first segment's.
    pub fn refused(&self, header: &VnetHdr, len: usize, quote: &mut Vec<u8>) -> Option<Inner> {
        let packet = self.refused_bytes(len);
        let inner = classify::inner(packet).ok()?;
        quote.clear();
        match header.gso {
            None => quote.extend_from_slice(&packet[..len.min(inner.header_len + 8)]),
            Some(gso) => {
                let first = Split::new(packet, inner, gso).ok()?.next()?;
                quote.extend_from_slice(first.headers());
            }
        }
        Some(inner)
    }

    /// The bytes of the packet of `len` bytes that [`forward`](Self::forward) just refused.
    pub fn refused_bytes(&self, len: usize) -> &[u8] {
        &self.arena[self.used..self.used + len]
    }

    /// Whether the packet that [`forward`](Self::forward) just refused is IPv6 to a multicast group
    /// of link scope (RFC 4291 §2.7). The kernel sends such packets on every link, for example router
    /// solicitations and MLD reports, and no router forwards them.
    pub fn is_link_scope_ipv6(&self, len: usize) -> bool {
        let packet = self.refused_bytes(len);
        len >= IPV6_HEADER_LEN
            && packet[0] >> 4 == 6
            && packet[IPV6_DST] == 0xff
            && packet[IPV6_DST + 1] & 0x0f == 2
    }

    /// MTU in bytes of the path that [`forward`](Self::forward) just refused a packet for.
    pub const fn path_mtu(&self) -> u16 {
        self.path_mtu
    }

    /// The probe that was queued since the last call.
    #[inline]
    pub fn take_probe(&mut self) -> Option<(Ipv4Addr, Quote)> {
        self.probe.take()
    }

    /// The send queue, and the arena that its pieces refer to.
    pub fn pending(&mut self) -> (&mut SendQueue, &[u8]) {
        (&mut self.queue, &self.arena)
    }

    /// Reuses the arena from its start if no queued datagram refers to it.
    pub fn reclaim(&mut self) {
        if self.queue.batches().is_empty() {
            self.used = 0;
        }
    }
}

/// The underlay flow of a packet. A peer that accepts any source port gets one of several ports, so
/// that its NIC, its workers and the routers on the way can spread flows by port.
#[inline]
fn underlay_flow(next_hop: NextHop, packet: &[u8], inner: &Inner) -> UnderlayFlow {
    if !next_hop.any_source_port {
        return UnderlayFlow::shared(next_hop.addr);
    }
    let [high_bits, ..] = flow_hash(packet, inner).to_be_bytes();
    UnderlayFlow::spread(next_hop.addr, TrafficClass::of(inner.protocol), high_bits)
}

/// Queues one datagram as `treatment` requires; returns whether its batch is full.
#[inline]
fn push(
    queue: &mut SendQueue,
    treatment: Treatment,
    flow: UnderlayFlow,
    headers: &[u8],
    body: Range<usize>,
) -> bool {
    match treatment {
        Treatment::Whole | Treatment::Probe => queue.push(flow, headers, body),
        // A packet without DF that is too long is sent in a fragmented datagram: docs/adr/0006.
        Treatment::InFragments | Treatment::Refused(_) => {
            queue.push_in_fragments(flow, headers, body);
            false
        }
    }
}

/// Length of a packet, or of the longest segment of a superpacket, in bytes.
fn longest(packet: &[u8], inner: Inner, gso: Option<Gso>) -> Result<usize, DropReason> {
    match gso {
        None => Ok(packet.len()),
        Some(gso) => Ok(Split::new(packet, inner, gso)?.longest_packet_len()),
    }
}

#[cfg(test)]
mod tests;
