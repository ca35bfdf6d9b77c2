//! What went to each peer, or came from it: counters found by the peer's public IP.
//!
//! A worker counts once for each run of datagrams, so a look at one cache line is all it costs.
//! The table never grows: a worker must not allocate.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::stats::Counter;

/// Peers a worker tells apart, in each direction; what further ones get is counted together. It is
/// 16 times what the most usual network has room for: a /16 of /24s. 24 bytes each.
const NUM_SLOTS: usize = 4096;

/// Slots looked at for one peer: at half load, a longer row of taken ones is rarer than 1 in 1000.
const MAX_PROBES: usize = 16;

/// 2³² divided by the golden ratio, odd: spreads neighbouring addresses (Knuth, TAOCP 3, §6.4).
const SPREAD: u32 = 0x9e37_79b9;

/// Counters of one direction of one worker, for each peer. One thread counts, anybody reads.
#[derive(Debug)]
pub struct PeerCounters {
    slots: Box<[Slot]>,
    /// Of peers that found no slot.
    other: Slot,
}

#[derive(Debug, Default)]
struct Slot {
    /// The peer's public IP; 0, which is no peer's, in a free slot.
    peer: AtomicU32,
    packets: Counter,
    bytes: Counter,
}

/// A reading of one peer's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCount {
    /// Its public IP; 0.0.0.0 stands for all peers that have no counters of their own.
    pub peer: Ipv4Addr,
    /// Inner packets.
    pub packets: u64,
    /// Their bytes, inner headers included.
    pub bytes: u64,
}

impl Default for PeerCounters {
    fn default() -> Self {
        let slots = (0..NUM_SLOTS).map(|_| Slot::default()).collect();
        Self { slots, other: Slot::default() }
    }
}

impl PeerCounters {
    /// Counts `packets` of `bytes` together. Only the worker whose counters they are calls this.
    #[inline]
    pub fn add(&self, peer: Ipv4Addr, packets: u64, bytes: u64) {
        let slot = self.slot(peer.to_bits());
        slot.packets.add(packets);
        slot.bytes.add(bytes);
    }

    #[inline]
    fn slot(&self, peer: u32) -> &Slot {
        let first = peer.wrapping_mul(SPREAD) >> (u32::BITS - NUM_SLOTS.trailing_zeros());
        for probe in 0..MAX_PROBES {
            let slot = &self.slots[(first as usize + probe) % NUM_SLOTS];
            let holder = slot.peer.load(Ordering::Relaxed);
            if holder == peer {
                return slot;
            }
            if holder == 0 {
                // No race: there is one writer. A reader that misses it sees it next time.
                slot.peer.store(peer, Ordering::Relaxed);
                return slot;
            }
        }
        &self.other
    }

    /// Every peer that was counted, in no order.
    pub fn counts(&self) -> impl Iterator<Item = PeerCount> {
        self.slots.iter().chain([&self.other]).map(Slot::count).filter(|count| count.packets > 0)
    }
}

impl Slot {
    fn count(&self) -> PeerCount {
        PeerCount {
            peer: self.peer.load(Ordering::Relaxed).into(),
            packets: self.packets.value(),
            bytes: self.bytes.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ip(number: usize) -> Ipv4Addr {
        (u32::from_be_bytes([10, 0, 0, 1]) + u32::try_from(number).unwrap()).into()
    }

    #[test]
    fn each_peer_has_its_own_counters() {
        let counters = PeerCounters::default();
        for number in 0..1000 {
            for _ in 0..2 {
                counters.add(ip(number), 1, number as u64);
            }
        }
        let counts: BTreeMap<Ipv4Addr, PeerCount> =
            counters.counts().map(|count| (count.peer, count)).collect();
        assert_eq!(counts.len(), 1000);
        for number in 0..1000 {
            let (peer, bytes) = (ip(number), 2 * number as u64);
            assert_eq!(counts[&peer], PeerCount { peer, packets: 2, bytes });
        }
    }

    #[test]
    fn what_finds_no_slot_is_counted_all_the_same() {
        let counters = PeerCounters::default();
        (0..2 * NUM_SLOTS).for_each(|number| counters.add(ip(number), 1, 10));
        let (packets, bytes) = counters
            .counts()
            .fold((0, 0), |(packets, bytes), count| (packets + count.packets, bytes + count.bytes));
        assert_eq!((packets, bytes), (2 * NUM_SLOTS as u64, 20 * NUM_SLOTS as u64));
        let other = counters.counts().find(|count| count.peer.is_unspecified()).unwrap();
        assert!(other.packets >= NUM_SLOTS as u64, "{other:?}");
    }
}
