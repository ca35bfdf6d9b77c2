//! Packets and bytes to or from each peer: counters found by the peer's public IP.
//!
//! A worker counts once for each batch of datagrams, which costs a read of one cache line. The table
//! never grows, because a worker must not allocate. So control marks the slots of peers that have
//! left, and the worker, the only one that assigns slots, reuses them for other peers.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::counter::add;

/// Peers that a worker counts separately, in each direction; all others are counted together. With
/// 10,000 peers less than a third is in use. 24 bytes each, but memory only where there are peers.
const NUM_SLOTS: usize = 32_768;

/// Slots searched for one peer: at half load, fewer than 1 in 1000 peers need more.
const MAX_PROBES: usize = 16;

/// The holder of a slot that was never assigned; 0.0.0.0 is no peer's address.
const FREE: u64 = 0;

/// Set in the holder of a slot whose peer has left.
const LEFT: u64 = 1 << u32::BITS;

/// 2³² divided by the golden ratio, odd: spreads neighbouring addresses (Knuth, TAOCP 3, §6.4).
const SPREAD: u32 = 0x9e37_79b9;

/// Counters of one direction of one worker, for each peer. One thread counts, any thread reads.
#[derive(Debug)]
pub struct PeerCounters {
    /// The words of a [`Slot`] each. They come from the kernel as zeros, and cost no memory before
    /// they are written.
    slots: Box<[[AtomicU64; 3]]>,
    /// For peers without a slot.
    other: [AtomicU64; 3],
}

#[derive(Debug, Clone, Copy)]
struct Slot<'a> {
    /// The peer's public IP, or [`FREE`]; with [`LEFT`] the next peer may have the slot.
    holder: &'a AtomicU64,
    packets: &'a AtomicU64,
    bytes: &'a AtomicU64,
}

/// A reading of one peer's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCount {
    /// Its public IP; 0.0.0.0 means all peers without counters of their own.
    pub peer: Ipv4Addr,
    /// Inner packets.
    pub packets: u64,
    /// Their bytes, inner headers included.
    pub bytes: u64,
}

impl Default for PeerCounters {
    fn default() -> Self {
        Self { slots: bytemuck::zeroed_slice_box(NUM_SLOTS), other: Default::default() }
    }
}

impl PeerCounters {
    /// Counts `packets` of `bytes` together. Only the worker whose counters they are calls this.
    #[inline]
    pub fn add(&self, peer: Ipv4Addr, packets: u64, bytes: u64) {
        let slot = self.slot(peer);
        add(slot.packets, packets);
        add(slot.bytes, bytes);
    }

    #[inline]
    fn slot(&self, peer: Ipv4Addr) -> Slot<'_> {
        let usual = Slot::of(&self.slots[first_index(peer)]);
        if usual.holder.load(Ordering::Relaxed) == u64::from(peer.to_bits()) {
            return usual;
        }
        self.search(peer)
    }

    /// The slot of a peer that is not where it is searched first, or has none yet.
    #[cold]
    fn search(&self, peer: Ipv4Addr) -> Slot<'_> {
        let candidates = self.candidates(peer);
        let peer = u64::from(peer.to_bits());
        let mut vacant = None;
        for slot in candidates {
            let holder = slot.holder.load(Ordering::Relaxed);
            if holder == peer {
                return slot;
            }
            if holder == FREE || holder & LEFT != 0 {
                vacant = vacant.or(Some(slot));
            }
            if holder == FREE {
                break;
            }
        }
        let Some(slot) = vacant else { return Slot::of(&self.other) };
        slot.begin(peer);
        slot
    }

    /// The slots in which a peer may be, in the order in which they are searched.
    fn candidates(&self, peer: Ipv4Addr) -> impl Iterator<Item = Slot<'_>> {
        let first = first_index(peer);
        (0..MAX_PROBES).map(move |probe| Slot::of(&self.slots[(first + probe) % NUM_SLOTS]))
    }

    /// Packets of one peer; 0 if it has no counters of its own.
    pub fn packets_of(&self, peer: Ipv4Addr) -> u64 {
        for slot in self.candidates(peer) {
            match slot.read() {
                Some(count) if count.peer == peer => return count.packets,
                Some(_) => {}
                None if slot.holder.load(Ordering::Relaxed) == FREE => break,
                None => {}
            }
        }
        0
    }

    /// Packets of all peers without counters of their own.
    pub fn packets_of_others(&self) -> u64 {
        Slot::of(&self.other).packets.load(Ordering::Relaxed)
    }

    /// Frees the counters of every peer for which `stays` returns false. They are not read again; a
    /// peer that returns starts at zero. Any thread may call this at any time.
    ///
    /// A worker may still be counting packets for such a peer, which then has counters again. So call
    /// this once more some time after the peer left.
    pub fn keep(&self, stays: impl Fn(Ipv4Addr) -> bool) {
        for slot in self.slots.iter().map(Slot::of) {
            let holder = slot.holder.load(Ordering::Relaxed);
            if let Some(peer) = peer(holder)
                && !stays(peer)
            {
                // This cannot fail: a worker does not change a slot that has a holder.
                let (relaxed, left) = (Ordering::Relaxed, holder | LEFT);
                let _ = slot.holder.compare_exchange(holder, left, relaxed, relaxed);
            }
        }
    }

    /// Every peer that was counted and has not left, in no order.
    pub fn counts(&self) -> impl Iterator<Item = PeerCount> {
        let other = std::iter::once(Slot::of(&self.other).count(Ipv4Addr::UNSPECIFIED));
        let slots = self.slots.iter().map(Slot::of);
        let counts = slots.filter_map(|slot| slot.read()).chain(other);
        counts.filter(|count| count.packets > 0)
    }
}

/// Where a peer is searched first.
#[inline]
const fn first_index(peer: Ipv4Addr) -> usize {
    (peer.to_bits().wrapping_mul(SPREAD) >> (u32::BITS - NUM_SLOTS.trailing_zeros())) as usize
}

/// The peer that holds a slot.
fn peer(holder: u64) -> Option<Ipv4Addr> {
    u32::try_from(holder).ok().filter(|peer| *peer != 0).map(Ipv4Addr::from_bits)
}

impl<'a> Slot<'a> {
    #[inline]
    const fn of([holder, packets, bytes]: &'a [AtomicU64; 3]) -> Self {
        Self { holder, packets, bytes }
    }

    /// Assigns a vacant slot to a peer. Workers do not race, because each has its own table. A reader
    /// sees either no peer, or the new one with what was counted since.
    #[cold]
    fn begin(self, peer: u64) {
        fence(Ordering::Release);
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.holder.store(peer, Ordering::Release);
    }

    /// `None` if the slot has no holder, or got another one while it was read.
    fn read(self) -> Option<PeerCount> {
        let holder = self.holder.load(Ordering::Acquire);
        let count = self.count(peer(holder)?);
        fence(Ordering::Acquire);
        (self.holder.load(Ordering::Relaxed) == holder).then_some(count)
    }

    fn count(self, peer: Ipv4Addr) -> PeerCount {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerCount { peer, packets: value(self.packets), bytes: value(self.bytes) }
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
    fn each_of_ten_thousand_peers_has_its_own_counters() {
        let counters = PeerCounters::default();
        for number in 0..10_000 {
            for _ in 0..2 {
                counters.add(ip(number), 1, number as u64);
            }
        }
        let counts: BTreeMap<Ipv4Addr, PeerCount> =
            counters.counts().map(|count| (count.peer, count)).collect();
        assert_eq!(counts.len(), 10_000);
        for number in 0..10_000 {
            let (peer, bytes) = (ip(number), 2 * number as u64);
            assert_eq!(counts[&peer], PeerCount { peer, packets: 2, bytes });
            assert_eq!(counters.packets_of(peer), 2);
        }
    }

    fn of(counters: &PeerCounters, peer: Ipv4Addr) -> Vec<u64> {
        let counts = counters.counts().filter(|count| count.peer == peer);
        counts.map(|count| count.bytes).collect()
    }

    #[test]
    fn ten_thousand_peers_that_come_and_go_each_have_their_own() {
        let counters = PeerCounters::default();
        for start in (0..10_000).step_by(500) {
            let here = start..start + 500;
            counters.keep(|peer| here.clone().any(|number| ip(number) == peer));
            here.clone().for_each(|number| counters.add(ip(number), 1, number as u64 + 1));
            let counts: BTreeMap<_, _> =
                counters.counts().map(|count| (count.peer, count.bytes)).collect();
            let expected = here.map(|number| (ip(number), number as u64 + 1));
            assert_eq!(counts, expected.collect(), "from {start}: those here, and nothing else");
        }
    }

    #[test]
    fn peer_that_returns_begins_at_zero_and_one_that_stays_goes_on() {
        let counters = PeerCounters::default();
        counters.add(ip(1), 1, 100);
        counters.add(ip(2), 1, 200);
        counters.keep(|peer| peer == ip(2));
        assert_eq!((of(&counters, ip(1)), of(&counters, ip(2))), (vec![], vec![200]));
        counters.add(ip(1), 1, 5);
        counters.add(ip(2), 1, 1);
        assert_eq!((of(&counters, ip(1)), of(&counters, ip(2))), (vec![5], vec![201]));
    }

    #[test]
    fn peers_beyond_the_slots_get_some_when_others_leave() {
        let counters = PeerCounters::default();
        (0..2 * NUM_SLOTS).for_each(|number| counters.add(ip(number), 1, 10));
        let late = ip(2 * NUM_SLOTS);
        counters.add(late, 1, 10);
        assert_eq!(of(&counters, late), [0_u64; 0], "counted with the others");
        counters.keep(|_| false);
        counters.add(late, 1, 7);
        assert_eq!(of(&counters, late), [7]);
        assert_eq!((counters.packets_of(late), counters.packets_of(ip(1))), (1, 0));
    }

    /// A reader never gives one peer what was counted for another.
    #[test]
    fn counters_that_change_hands_while_they_are_read_are_nobodys() {
        let counters = PeerCounters::default();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                for round in 0..2_000_u32 {
                    let number = 1 + round % 3;
                    counters.add(ip(number as usize), 1, u64::from(number));
                    counters.keep(|_| false);
                }
            });
            while !worker.is_finished() {
                for count in counters.counts() {
                    let number = u64::from(count.peer.to_bits() - ip(0).to_bits());
                    // The two counters are read one after the other, so either may be ahead.
                    assert!([0, number].contains(&count.bytes), "{count:?}");
                }
            }
        });
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
        assert_eq!(other.packets, counters.packets_of_others());
    }
}
