//! Inner packet → datagrams for its peer. Egress, between the TUN and the socket; no I/O.
//!
//! Packets stand where they were read, one behind the other in an arena; what leaves are ranges
//! of it, behind headers of their own where a superpacket was split.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::gso_batch::{Path, SendQueue};
use super::recursion::RecursionGuard;
use super::split::{Split, complete_checksum};
use crate::dataplane::io::udp::NUM_SOURCE_PORTS;
use crate::dataplane::io::underlay_error::Quote;
use crate::dataplane::packet::checksum::decrement_ttl;
use crate::dataplane::packet::classify;
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::flow;
use crate::dataplane::packet::headers::{MAX_PACKET_LEN, ipv4, u16_at};
use crate::dataplane::packet::vnet_hdr::{Gso, VnetHdr};
use crate::dataplane::pmtu::{PathMtus, Treatment};
use crate::dataplane::stats::drop_reason::DropReason;
use crate::routes::{NextHop, RouteTable};

/// Length of the arena, in bytes: the superpackets of a turn should still be in the second-level
/// cache when the kernel copies them out.
const ARENA_LEN: usize = 512 << 10;

/// Length of the IPv6 header, and where it has its destination (RFC 8200 §3).
const IPV6_HEADER_LEN: usize = 40;
const IPV6_DST: usize = 24;

/// The egress arrow from TUN to socket.
#[derive(Debug)]
pub struct Encap {
    arena: Box<[u8]>,
    /// Length of the arena's front that queued datagrams refer to.
    used: usize,
    queue: SendQueue,
    guard: RecursionGuard,
    /// What the path takes that the last refused packet was too big for.
    path_mtu: u16,
    /// The datagram last queued is a probe of its path: the peer, and its first bytes.
    probe: Option<(Ipv4Addr, Quote)>,
}

impl Encap {
    /// An empty arrow; with `gso`, datagrams are packed into runs.
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

    /// Takes the packet of `len` bytes, read to the front of [`room`](Self::room), to the send
    /// queue. Returns whether a run is full, so that sending it now costs nothing.
    ///
    /// # Errors
    /// Why the packet ends here; it still stands at the front of the room.
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
            let longest = longest(packet, inner, header.gso)?;
            treatment = paths.treatment(*next_hop.addr.ip(), longest);
            if let Treatment::Refused(path_mtu) = treatment
                && u16_at(packet, ipv4::FRAGMENT) & ipv4::DF != 0
            {
                self.path_mtu = path_mtu;
                return Err(DropReason::TooBigForPath);
            }
        }
        decrement_ttl(packet);
        let path = path(next_hop, packet, &inner);

        let mut is_full = false;
        match header.gso {
            None => {
                is_full = push(&mut self.queue, treatment, path, &[], start..start + len);
                if treatment == Treatment::Probe {
                    self.probe = Some((*path.to.ip(), Quote::of(&[packet])));
                }
            }
            Some(gso) => {
                for segment in Split::new(packet, inner, gso)? {
                    let payload = start + segment.payload.start..start + segment.payload.end;
                    let body = &packet[segment.payload.clone()];
                    is_full |= push(&mut self.queue, treatment, path, segment.headers(), payload);
                    if treatment == Treatment::Probe {
                        // One is enough: the rest must not be lost with it.
                        let first_bytes = Quote::of(&[segment.headers(), body]);
                        self.probe = Some((*path.to.ip(), first_bytes));
                        treatment = Treatment::InFragments;
                    }
                }
            }
        }
        self.used = (start + len).next_multiple_of(64).min(ARENA_LEN);
        Ok(is_full)
    }

    /// The packet that [`forward`](Self::forward) just refused, for an ICMP error to quote: its
    /// description and its first bytes as they would have left, so a superpacket's first segment.
    pub fn refused(&self, header: &VnetHdr, len: usize, quote: &mut Vec<u8>) -> Option<Inner> {
        let packet = &self.arena[self.used..self.used + len];
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

    /// Whether the packet that [`forward`](Self::forward) just refused is IPv6 for a group of link
    /// scope (RFC 4291 §2.7): what the kernel sends on any link by itself, such as router
    /// solicitations and MLD reports, and what no router forwards.
    pub fn is_ipv6_of_the_link(&self, len: usize) -> bool {
        let packet = &self.arena[self.used..self.used + len];
        len >= IPV6_HEADER_LEN
            && packet[0] >> 4 == 6
            && packet[IPV6_DST] == 0xff
            && packet[IPV6_DST + 1] & 0x0f == 2
    }

    /// What the path takes, in bytes, that [`forward`](Self::forward) just refused a packet for.
    pub const fn path_mtu(&self) -> u16 {
        self.path_mtu
    }

    /// The probe that was queued since this was last asked.
    #[inline]
    pub fn take_probe(&mut self) -> Option<(Ipv4Addr, Quote)> {
        self.probe.take()
    }

    /// What waits to be sent, and the arena that its pieces refer to.
    pub fn pending(&mut self) -> (&mut SendQueue, &[u8]) {
        (&mut self.queue, &self.arena)
    }

    /// Reuses the arena from its start if nothing refers to it any more.
    pub fn reclaim(&mut self) {
        if self.queue.runs().is_empty() {
            self.used = 0;
        }
    }
}

/// The path of the packet's flow: one of many to a peer that takes datagrams from any port, so
/// that its network card, its workers and every router on the way can tell flows apart.
#[inline]
fn path(next_hop: NextHop, packet: &[u8], inner: &Inner) -> Path {
    if !next_hop.any_source_port {
        return Path::shared(next_hop.addr);
    }
    let [high_bits, ..] = flow::hash(packet, inner).to_be_bytes();
    Path { to: next_hop.addr, source: 1 + high_bits % NUM_SOURCE_PORTS }
}

/// Queues one datagram as `treatment` asks; returns whether its run is full.
#[inline]
fn push(
    queue: &mut SendQueue,
    treatment: Treatment,
    path: Path,
    headers: &[u8],
    body: Range<usize>,
) -> bool {
    match treatment {
        Treatment::Whole | Treatment::Probe => queue.push(path, headers, body),
        // Without DF, what is too long travels in fragments of the datagram: docs/adr/0006.
        Treatment::InFragments | Treatment::Refused(_) => {
            queue.push_in_fragments(path, headers, body);
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
