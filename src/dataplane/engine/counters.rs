//! The counters of all workers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::dataplane::capture::Captures;
use crate::dataplane::pmtu::SharedPaths;
use crate::dataplane::stats::StatsSnapshot;
use crate::dataplane::stats::direction::DirectionStats;
use crate::dataplane::stats::peer_error::PeerError;
use crate::dataplane::stats::peers::PeerCount;
use crate::dataplane::stats::worker::WorkerStats;

/// The workers' counters. They outlive an engine, so that the next one continues them.
#[derive(Debug, Clone)]
pub struct Counters {
    pub(super) workers: Arc<[Arc<CachePadded<WorkerStats>>]>,
    pub(super) paths: SharedPaths,
    captures: Captures,
}

impl Counters {
    /// Counters at zero for `num_workers` workers.
    pub fn new(num_workers: usize) -> Self {
        let workers = (0..num_workers).map(|_| Arc::default()).collect();
        Self { workers, paths: SharedPaths::default(), captures: Captures::default() }
    }

    /// The captures of the workers' packets.
    pub const fn captures(&self) -> &Captures {
        &self.captures
    }

    /// Reads every counter. Takes no lock.
    pub fn snapshot(&self) -> StatsSnapshot {
        let workers = self.workers.iter().map(|stats| stats.snapshot()).collect();
        StatsSnapshot { workers, narrow_paths: self.paths.snapshot() }
    }

    /// Reads what was sent to each peer: one entry per peer and worker, in no order.
    pub fn to_peers(&self) -> Vec<PeerCount> {
        self.workers.iter().flat_map(|stats| stats.egress.peers.counts()).collect()
    }

    /// The same for what came from each peer. Packets without a route back to a peer are in none.
    pub fn from_peers(&self) -> Vec<PeerCount> {
        self.workers.iter().flat_map(|stats| stats.ingress.peers.counts()).collect()
    }

    /// Inner packets sent to a peer and received from it, by all workers. Packets of a peer without
    /// counters of its own are not in it.
    pub fn carried(&self, peer: Ipv4Addr) -> [u64; 2] {
        let sum = |way: fn(&WorkerStats) -> &DirectionStats| {
            self.workers.iter().map(|stats| way(stats).peers.packets_of(peer)).sum()
        };
        [sum(|stats| &stats.egress), sum(|stats| &stats.ingress)]
    }

    /// All inner packets, sent and received.
    pub fn total(&self) -> u64 {
        let of_worker =
            |stats: &WorkerStats| stats.egress.packets.value() + stats.ingress.packets.value();
        self.workers.iter().map(|stats| of_worker(stats)).sum()
    }

    /// Packets received from all peers together that have no counters of their own.
    pub fn received_from_others(&self) -> u64 {
        self.workers.iter().map(|stats| stats.ingress.peers.packets_of_others()).sum()
    }

    /// Takes the errors about datagrams to peers that the workers reported since the last call.
    pub fn take_peer_errors(&self) -> impl Iterator<Item = PeerError> {
        self.workers.iter().flat_map(|stats| stats.peer_errors.take())
    }

    /// Sets the limits of the host's routes: the longest datagram to each of these peers, outer
    /// headers included, in bytes.
    pub fn limit_paths(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) {
        self.paths.limit(outer_mtus);
    }

    /// Counts packets that a worker received from a peer.
    #[cfg(test)]
    pub fn count_from(&self, worker: usize, peer: Ipv4Addr, packets: u64) {
        self.workers[worker].ingress.peers.add(peer, packets, packets);
    }

    /// Reports an error about a datagram to a peer.
    #[cfg(test)]
    pub fn report(&self, worker: usize, error: PeerError) {
        self.workers[worker].peer_errors.report(error);
    }

    /// Counts packets that a worker sent to a peer.
    #[cfg(test)]
    pub fn count(&self, worker: usize, peer: Ipv4Addr, packets: u64) {
        self.workers[worker].egress.peers.add(peer, packets, packets);
    }

    /// Frees the counters of every peer for which `stays` returns false.
    pub fn keep_peers(&self, stays: impl Fn(Ipv4Addr) -> bool) {
        for stats in &*self.workers {
            stats.egress.peers.keep(&stays);
            stats.ingress.peers.keep(&stays);
        }
    }
}
