//! [`TopPeers`]: the busiest peers by name, all others as one.
//!
//! A series must never shrink, also while peers enter and leave the top. So a peer's traffic counts
//! for its own name while it is in the top, for `other` while it is not, and never moves between the
//! two.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::dataplane::stats::peers::PeerCount;

/// Peers with a name in the metrics: 4 series each, so not even a large network is a burden to
/// the server that scrapes all of its nodes.
pub(super) const MAX_NAMED: usize = 50;

/// What was carried in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Inner packets.
    pub(super) packets: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// What was carried to a peer, and what came from it.
pub(super) type BothWays = [Carried; 2];

/// Every peer there was, ranked by what it carried lately.
#[derive(Debug, Default)]
pub(super) struct TopPeers {
    peers: BTreeMap<Ipv4Addr, Peer>,
    other: BothWays,
}

#[derive(Debug, Default)]
struct Peer {
    /// All it carried, as last read.
    total: BothWays,
    /// What counts for its name.
    named: BothWays,
    /// What it carried since the last reading.
    fresh: BothWays,
    /// Bytes it carried lately: the older, the less they count.
    score: u64,
    is_named: bool,
}

impl TopPeers {
    /// Takes over the workers' counters: what was carried to peers, and what came from them.
    pub(super) fn read(&mut self, to_peers: &[PeerCount], from_peers: &[PeerCount]) {
        let mut totals: BTreeMap<Ipv4Addr, BothWays> = BTreeMap::new();
        for (way, counts) in [to_peers, from_peers].into_iter().enumerate() {
            for count in counts {
                totals.entry(count.peer).or_default()[way].add(count.packets, count.bytes);
            }
        }
        // A peer that the workers no longer count has left; if it returns, it starts at zero.
        self.peers.retain(|ip, _| totals.contains_key(ip));
        self.peers.values_mut().for_each(|peer| peer.fresh = BothWays::default());
        for (ip, total) in totals {
            self.peers.entry(ip).or_default().observe(total);
        }
        self.rank();
        for peer in self.peers.values_mut() {
            let place = if peer.is_named { &mut peer.named } else { &mut self.other };
            for (sum, fresh) in place.iter_mut().zip(peer.fresh) {
                sum.add(fresh.packets, fresh.bytes);
            }
        }
    }

    fn rank(&mut self) {
        for peer in self.peers.values_mut() {
            let fresh = peer.fresh.iter().map(|way| way.bytes).sum::<u64>();
            peer.score = (peer.score / 2).saturating_add(fresh);
        }
        // The unspecified address is the sum of peers beyond the workers' limit.
        let candidates = self.peers.iter_mut().filter(|(ip, _)| !ip.is_unspecified());
        let mut ranking: Vec<&mut Peer> = candidates.map(|(_, peer)| peer).collect();
        // Of two equals the one that is named stays so.
        ranking.sort_by_key(|peer| Reverse((peer.score, peer.is_named)));
        for (rank, peer) in ranking.into_iter().enumerate() {
            peer.is_named = rank < MAX_NAMED;
        }
    }

    /// The busiest peers, by address.
    pub(super) fn named(&self) -> impl Iterator<Item = (Ipv4Addr, BothWays)> {
        let named = self.peers.iter().filter(|(_, peer)| peer.is_named);
        named.map(|(ip, peer)| (*ip, peer.named))
    }

    /// All others together.
    pub(super) const fn other(&self) -> BothWays {
        self.other
    }
}

impl Peer {
    fn observe(&mut self, total: BothWays) {
        for ((fresh, before), now) in self.fresh.iter_mut().zip(self.total).zip(total) {
            fresh.packets = since(before.packets, now.packets);
            fresh.bytes = since(before.bytes, now.bytes);
        }
        self.total = total;
    }
}

/// Growth of a counter. If it is less than before, it restarted at zero with its worker.
const fn since(before: u64, now: u64) -> u64 {
    if now < before { now } else { now - before }
}

impl Carried {
    const fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(number: usize, bytes: u64) -> PeerCount {
        let peer = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap());
        PeerCount { peer, packets: bytes / 10, bytes }
    }

    fn sum(top: &TopPeers) -> u64 {
        let named: u64 = top.named().map(|(_, ways)| ways[0].bytes + ways[1].bytes).sum();
        named + top.other()[0].bytes + top.other()[1].bytes
    }

    #[test]
    fn few_peers_are_all_named_with_the_sums_of_all_workers() {
        let mut top = TopPeers::default();
        top.read(&[count(1, 100), count(2, 10), count(1, 50)], &[count(1, 30)]);
        let carried = |bytes| Carried { packets: bytes / 10, bytes };
        let named: Vec<_> = top.named().map(|(ip, ways)| (ip.octets()[3], ways)).collect();
        assert_eq!(named, [(1, [carried(150), carried(30)]), (2, [carried(10), carried(0)])]);
        assert_eq!(top.other(), BothWays::default());
    }

    #[test]
    fn series_only_grow_and_nothing_is_lost_while_the_top_changes() {
        let mut top = TopPeers::default();
        let mut totals = vec![0; 3 * MAX_NAMED];
        let mut before: BTreeMap<Ipv4Addr, BothWays> = BTreeMap::new();
        let mut other = 0;
        for round in 0..30 {
            for (number, total) in totals.iter_mut().enumerate() {
                // The busy ones move on, a few each round.
                let is_busy = (number + 5 * round) % (2 * MAX_NAMED) < MAX_NAMED;
                *total += if is_busy { 10_000 } else { 10 };
            }
            let counts: Vec<_> = totals.iter().enumerate().map(|(n, b)| count(n + 1, *b)).collect();
            top.read(&counts, &[]);
            assert_eq!(top.named().count(), MAX_NAMED);
            assert_eq!(sum_of_all(&top), totals.iter().sum::<u64>(), "round {round}");
            assert!(top.other()[0].bytes >= other);
            other = top.other()[0].bytes;
            for (ip, ways) in top.named() {
                let earlier = before.insert(ip, ways).unwrap_or_default();
                assert!(ways[0].bytes >= earlier[0].bytes, "{ip}");
            }
        }
        let (busiest, _) = totals.iter().enumerate().max_by_key(|(_, bytes)| **bytes).unwrap();
        assert!(before.contains_key(&count(busiest + 1, 0).peer));
    }

    /// Also of peers that were named once.
    fn sum_of_all(top: &TopPeers) -> u64 {
        top.peers.values().map(|peer| peer.named[0].bytes).sum::<u64>() + top.other()[0].bytes
    }

    #[test]
    fn counters_that_begin_anew_and_peers_not_told_apart_are_no_loss() {
        let mut top = TopPeers::default();
        top.read(&[count(1, 100)], &[]);
        top.read(&[count(1, 20)], &[]);
        assert_eq!(sum(&top), 120);
        let unknown = PeerCount { peer: Ipv4Addr::UNSPECIFIED, packets: 1, bytes: 7 };
        top.read(&[count(1, 20), unknown], &[]);
        assert_eq!((top.named().count(), top.other()[0].bytes, sum(&top)), (1, 7, 127));
    }
}
