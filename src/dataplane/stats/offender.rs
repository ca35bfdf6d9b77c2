//! Which packet was dropped last, for each drop reason.
//!
//! A worker writes, any thread reads. In a flood only one packet in 64 is written down, so
//! that a drop costs less than one store.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde::Serialize;

/// The first drops of a reason are all written down, later ones of this many.
const SAMPLE: u64 = 64;

/// How often a reader tries again while a worker writes.
const MAX_ATTEMPTS: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A sequence lock around two words. Odd while the worker writes; 0 before the first packet.
#[derive(Debug, Default)]
pub(super) struct LastOffender {
    version: AtomicU64,
    /// Source and destination.
    addrs: AtomicU64,
    /// Ports, length, protocol.
    rest: AtomicU64,
}

/// A packet that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// Source of the inner packet; 0.0.0.0 if it had no IPv4 header.
    pub src: Ipv4Addr,
    /// Destination of the inner packet.
    pub dst: Ipv4Addr,
    /// Protocol of what is in it.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// Length of the packet or superpacket, in bytes.
    pub len: u16,
}

/// Whether to write down one of `num` packets when `before` have been dropped for the reason.
#[inline]
pub(super) const fn is_sampled(before: u64, num: u64) -> bool {
    before < SAMPLE || before / SAMPLE != before.wrapping_add(num) / SAMPLE
}

impl LastOffender {
    /// Writes down the packet of `len` bytes that begins with `head`.
    #[cold]
    pub(super) fn set(&self, head: &[u8], len: usize) {
        let field = |at: usize| head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let is_ipv4 = head.first().is_some_and(|first| first >> 4 == 4);
        let addrs = field(12).filter(|_| is_ipv4).map_or(0, u64::from_be_bytes);
        let rest = u64::from(ports(head).filter(|_| is_ipv4).unwrap_or(0)) << 32
            | u64::from(u16::try_from(len).unwrap_or(u16::MAX)) << 8
            | u64::from(head.get(9).copied().filter(|_| is_ipv4).unwrap_or(0));
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.addrs.store(addrs, Ordering::Relaxed);
        self.rest.store(rest, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Reads it; `None` if there was none, or the worker writes all the time.
    pub(super) fn read(&self) -> Option<Offender> {
        for _ in 0..MAX_ATTEMPTS {
            let version = self.version.load(Ordering::Acquire);
            let addrs = self.addrs.load(Ordering::Relaxed);
            let rest = self.rest.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if version == 0 {
                return None;
            }
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return Some(Offender::of(addrs.to_be_bytes(), rest.to_be_bytes()));
            }
        }
        None
    }
}

/// The ports of a first fragment or whole packet, as they are in the packet.
fn ports(head: &[u8]) -> Option<u32> {
    let header_len = usize::from(head.first()? & 0x0f) * 4;
    let is_first = [head.get(6)? & 0x1f, *head.get(7)?] == [0, 0];
    let bytes = head.get(header_len..header_len + 4)?.try_into().ok()?;
    (is_first && matches!(head.get(9), Some(&(TCP | UDP)))).then(|| u32::from_be_bytes(bytes))
}

impl Offender {
    fn of([a, b, c, d, e, f, g, h]: [u8; 8], rest: [u8; 8]) -> Self {
        let [p, q, r, s, _, high, low, protocol] = rest;
        let ports = (u16::from_be_bytes([p, q]), u16::from_be_bytes([r, s]));
        Self {
            src: [a, b, c, d].into(),
            dst: [e, f, g, h].into(),
            protocol,
            ports: matches!(protocol, TCP | UDP).then_some(ports).filter(|ports| *ports != (0, 0)),
            len: u16::from_be_bytes([high, low]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::packet::builder::PacketBuilder;

    fn set(head: &[u8], len: usize) -> Option<Offender> {
        let offender = LastOffender::default();
        assert_eq!(offender.read(), None, "none yet");
        offender.set(head, len);
        offender.read()
    }

    #[test]
    fn offender_is_described_by_its_header() {
        let packet = PacketBuilder::udp("10.1.15.2:1000", "10.9.0.1:53").payload(&[0; 72]).build();
        let expected = Offender {
            src: [10, 1, 15, 2].into(),
            dst: [10, 9, 0, 1].into(),
            protocol: UDP,
            ports: Some((1000, 53)),
            len: 100,
        };
        assert_eq!(set(&packet, packet.len()), Some(expected));
        let of_superpacket = set(&packet[..28], 65_535).unwrap();
        assert_eq!(of_superpacket, Offender { len: 65_535, ..expected });
        assert_eq!(set(&packet[..20], 100).unwrap().ports, None, "only the IPv4 header is there");
    }

    #[test]
    fn what_is_no_ipv4_has_a_length_only() {
        for bytes in [&[][..], &[0x45], &[0x60; 48], &[0; 40]] {
            let offender = set(bytes, bytes.len()).unwrap();
            assert_eq!((offender.src, offender.ports), ([0; 4].into(), None));
            assert_eq!(usize::from(offender.len), bytes.len());
        }
    }

    #[test]
    fn flood_is_sampled() {
        let num = (0..6400).filter(|before| is_sampled(*before, 1)).count();
        assert_eq!(num, 64 + 99);
        assert!(is_sampled(1000, 64), "a batch as long as the sample always counts");
    }

    #[test]
    fn reader_never_mixes_two_packets() {
        let packet = |n: u8| {
            let [src, dst] = [format!("10.0.0.{n}:{n}"), format!("10.0.1.{n}:{n}")];
            PacketBuilder::udp(&src, &dst).payload(&vec![0; usize::from(n)]).build()
        };
        let (offender, packets) = (LastOffender::default(), [packet(1), packet(2), packet(3)]);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for packet in packets.iter().cycle().take(30_000) {
                    offender.set(packet, packet.len());
                }
            });
            while !writer.is_finished() {
                let Some(Offender { src, dst, ports, len, .. }) = offender.read() else { continue };
                let n = src.octets()[3];
                assert_eq!(dst.octets()[3], n);
                assert_eq!((ports, len), (Some((n.into(), n.into())), 28 + u16::from(n)));
            }
        });
    }
}
