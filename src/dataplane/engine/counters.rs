//! The counters of all workers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::dataplane::pmtu::SharedPaths;
use crate::dataplane::stats::StatsSnapshot;
use crate::dataplane::stats::peers::PeerCount;
use crate::dataplane::stats::worker::WorkerStats;

/// The workers' counters. They outlive an engine, so that the next one continues them.
#[derive(Debug, Clone)]
pub struct Counters {
    pub(super) workers: Arc<[Arc<CachePadded<WorkerStats>>]>,
    pub(super) paths: SharedPaths,
}

impl Counters {
    /// Counters at zero for `num_workers` workers.
    pub fn new(num_workers: usize) -> Self {
        let workers = (0..num_workers).map(|_| Arc::default()).collect();
        Self { workers, paths: SharedPaths::default() }
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

    /// Sets the limits of the host's routes: the longest datagram to each of these peers, outer
    /// headers included, in bytes.
    pub fn limit_paths(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) {
        self.paths.limit(outer_mtus);
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
