//! [`PeerTraffic`]: which of the programs' counters each peer has.
//!
//! The programs only add to counters, and user space only reads them, as memory. So a peer that gets
//! the counters of one that left begins at what they say then.

use std::collections::BTreeMap;

use aya::util::nr_cpus;

use super::counters::Traffic;
use crate::dataplane::io::sys::mmap::MappedWords;

/// Words of `struct traffic` in `bpf/tables.h`.
pub(super) const TRAFFIC_LEN: usize = 4;

/// Most bytes of the kernel's memory for the counters of all peers: 32 for each on every processor.
const MAX_BYTES: usize = 16 << 20;

/// Peers with counters of their own, at most: as many as a worker counts separately.
const MAX_COUNTERS: usize = 32_768;

/// The counters of all peers that have none of their own.
const OTHERS: u16 = 0;

/// How many processors the kernel may use.
pub(super) fn num_processors() -> usize {
    nr_cpus().unwrap_or(1)
}

/// How many counters each of `num_processors` has, for an overlay of so many subnets.
pub(super) fn num_counters(num_slots: usize, num_processors: usize) -> u16 {
    let affordable = MAX_BYTES / (TRAFFIC_LEN * size_of::<u64>() * num_processors.max(1));
    // With those of all others.
    let num = (num_slots + 1).min(affordable).clamp(1, MAX_COUNTERS);
    u16::try_from(num).unwrap_or(u16::MAX)
}

/// The counters in the programs' memory: those of processor 0, then of processor 1 and so on.
#[derive(Debug)]
pub(super) struct TrafficReader {
    words: MappedWords,
    num_counters: usize,
    num_processors: usize,
}

impl TrafficReader {
    pub(super) const fn new(words: MappedWords, num_counters: u16, num_processors: usize) -> Self {
        Self { words, num_counters: num_counters as usize, num_processors }
    }

    /// What all processors counted under `number`.
    pub(super) fn read(&self, number: u16) -> Traffic {
        let mut sum = Traffic::default();
        for processor in 0..self.num_processors {
            let first = (processor * self.num_counters + usize::from(number)) * TRAFFIC_LEN;
            let [to_packets, to_bytes, from_packets, from_bytes] =
                [0, 1, 2, 3].map(|word| self.words.load(first + word));
            sum.add(&Traffic { to_packets, to_bytes, from_packets, from_bytes });
        }
        sum
    }
}

/// The numbers of the peers' counters, and what earlier programs counted.
#[derive(Debug)]
pub(super) struct PeerTraffic {
    num_counters: u16,
    by_slot: BTreeMap<usize, PeerCounter>,
    /// Numbers of peers that left.
    free: Vec<u16>,
    next: u16,
    others_before: Traffic,
}

#[derive(Debug)]
struct PeerCounter {
    number: u16,
    /// What they said of others when the peer got them.
    base: Traffic,
    /// What earlier programs counted of this peer.
    before: Traffic,
}

impl PeerTraffic {
    pub(super) const fn new(num_counters: u16) -> Self {
        Self {
            num_counters,
            by_slot: BTreeMap::new(),
            free: Vec::new(),
            next: OTHERS + 1,
            others_before: ZERO,
        }
    }

    pub(super) const fn num_counters(&self) -> u16 {
        self.num_counters
    }

    /// The number of the counters of the peer in `slot`.
    pub(super) fn number(&self, slot: usize) -> u16 {
        self.by_slot.get(&slot).map_or(OTHERS, |counter| counter.number)
    }

    /// Gives the peer in `slot`, which is a new one, counters that begin at zero, if there are some.
    pub(super) fn begin(&mut self, slot: usize, reader: Option<&TrafficReader>) {
        self.end(slot);
        let number = self.free.pop().or_else(|| {
            let number = self.next;
            (number < self.num_counters).then(|| {
                self.next += 1;
                number
            })
        });
        let Some(number) = number else { return };
        let base = reader.map_or(ZERO, |reader| reader.read(number));
        self.by_slot.insert(slot, PeerCounter { number, base, before: ZERO });
    }

    /// Frees the counters of a peer that left `slot`.
    pub(super) fn end(&mut self, slot: usize) {
        if let Some(counter) = self.by_slot.remove(&slot) {
            self.free.push(counter.number);
        }
    }

    /// What was carried to and from each peer that has counters of its own, by slot.
    pub(super) fn of_peers<'a>(
        &'a self,
        reader: Option<&'a TrafficReader>,
    ) -> impl Iterator<Item = (usize, Traffic)> + 'a {
        self.by_slot.iter().map(move |(slot, counter)| (*slot, counter.read(reader)))
    }

    /// What was carried to and from all others.
    pub(super) fn of_others(&self, reader: Option<&TrafficReader>) -> Traffic {
        let mut sum = self.others_before;
        sum.add(&reader.map_or(ZERO, |reader| reader.read(OTHERS)));
        sum
    }

    /// Takes over what programs counted that are about to go.
    pub(super) fn keep(&mut self, reader: &TrafficReader) {
        self.others_before = self.of_others(Some(reader));
        for counter in self.by_slot.values_mut() {
            counter.before = counter.read(Some(reader));
            counter.base = ZERO;
        }
    }
}

const ZERO: Traffic = Traffic { to_packets: 0, to_bytes: 0, from_packets: 0, from_bytes: 0 };

impl PeerCounter {
    fn read(&self, reader: Option<&TrafficReader>) -> Traffic {
        let mut sum = self.before;
        if let Some(reader) = reader {
            sum.add(&reader.read(self.number).since(&self.base));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_as_many_as_subnets_and_take_no_more_than_their_memory() {
        assert_eq!(num_counters(256, 2), 257);
        assert_eq!(num_counters(1 << 16, 2), 32_768);
        assert_eq!(num_counters(1 << 16, 64), 8192);
        assert_eq!(num_counters(1 << 16, 8192), 64);
        assert_eq!(num_counters(0, 0), 1);
    }

    #[test]
    fn peer_has_counters_of_its_own_while_there_are_some_and_never_those_of_another() {
        let mut traffic = PeerTraffic::new(3);
        for (slot, number) in [(7, 1), (9, 2), (11, OTHERS)] {
            traffic.begin(slot, None);
            assert_eq!(traffic.number(slot), number);
        }
        traffic.end(7);
        traffic.begin(11, None);
        assert_eq!([7, 9, 11].map(|slot| traffic.number(slot)), [OTHERS, 2, 1]);
        traffic.begin(9, None);
        assert_eq!(traffic.number(9), 2, "another peer in the same slot");
        assert_eq!(traffic.of_peers(None).count(), 2);
    }
}
