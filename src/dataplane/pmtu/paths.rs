//! [`PathMtus`]: what is known of all paths; and how it is shared.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::limits::Limits;
use super::path::{PeerPath, Treatment};
use crate::dataplane::stats::PathSnapshot;

/// Most peers that something is remembered of. A further peer replaces the one that would be
/// forgotten first.
pub(super) const MAX_PEERS: usize = 1024;

/// What is known of all paths at one time; immutable.
#[derive(Debug)]
pub struct PathMtus {
    /// Sorted by peer.
    pub(super) paths: Vec<PeerPath>,
    pub(super) limits: Limits,
    /// Length of the longest packet that fits every path, in bytes.
    narrowest: usize,
    awaits_answer: bool,
}

impl PathMtus {
    /// Nothing is known of any path.
    pub const NONE: Self = Self {
        paths: Vec::new(),
        limits: Limits::NONE,
        narrowest: usize::MAX,
        awaits_answer: false,
    };

    pub(super) fn new(paths: Vec<PeerPath>, limits: Limits) -> Self {
        let narrowest = paths.iter().map(PeerPath::longest_plain).min().unwrap_or(usize::MAX);
        let narrowest = narrowest.min(limits.least());
        let awaits_answer = paths.iter().any(PeerPath::awaits_answer);
        Self { paths, limits, narrowest, awaits_answer }
    }

    /// Length of the longest packet that fits every path, in bytes. Packets up to this length need
    /// no lookup. `usize::MAX` while no path is claimed to be narrow.
    #[inline]
    pub const fn narrowest(&self) -> usize {
        self.narrowest
    }

    /// Length of the longest packet that fits the path to `peer`, in bytes, if the path is known to
    /// be narrow.
    pub fn longest_to(&self, peer: Ipv4Addr) -> Option<u16> {
        let proven = self.path_to(peer).and_then(PeerPath::proven);
        proven.into_iter().chain(self.limits.of(peer)).min()
    }

    /// How to send a packet of `len` bytes to `peer`.
    pub fn treatment(&self, peer: Ipv4Addr, len: usize) -> Treatment {
        match self.limits.of(peer) {
            Some(limit) if len > usize::from(limit) => {
                Treatment::Refused(self.longest_to(peer).unwrap_or(limit))
            }
            _ => self.path_to(peer).map_or(Treatment::Whole, |path| path.treatment(len)),
        }
    }

    /// Every path that is known to be narrow.
    pub fn snapshot(&self) -> Vec<PathSnapshot> {
        let proven = self.paths.iter().filter(|path| path.proven().is_some());
        let peers: BTreeSet<_> = proven.map(|path| path.peer).chain(self.limits.peers()).collect();
        let snapshot = |peer| Some(PathSnapshot { peer, mtu: self.longest_to(peer)? });
        peers.into_iter().filter_map(snapshot).collect()
    }

    pub(super) fn path_to(&self, peer: Ipv4Addr) -> Option<&PeerPath> {
        let index = self.paths.binary_search_by_key(&peer, |path| path.peer).ok()?;
        Some(&self.paths[index])
    }

    /// Whether an answer to a probe may come.
    pub(super) const fn awaits_answer(&self) -> bool {
        self.awaits_answer
    }

    /// When the next path changes by time alone.
    pub(super) fn next_event(&self) -> Option<Instant> {
        self.paths.iter().map(PeerPath::next_event).min()
    }

    /// These paths with `changed` in place of what was known of its peer.
    pub(super) fn with(&self, changed: PeerPath) -> Self {
        let mut paths = self.paths.clone();
        match paths.binary_search_by_key(&changed.peer, |path| path.peer) {
            Ok(index) => paths[index] = changed,
            Err(_) => {
                if paths.len() >= MAX_PEERS
                    && let Some(first) = (0..paths.len()).min_by_key(|&at| paths[at].forget_at)
                {
                    paths.remove(first);
                }
                let index = paths.partition_point(|path| path.peer < changed.peer);
                paths.insert(index, changed);
            }
        }
        Self::new(paths, self.limits.clone())
    }
}

/// What is known of all paths, shared by all workers and readable by any thread.
#[derive(Debug, Clone)]
pub struct SharedPaths(pub(super) Arc<ArcSwap<PathMtus>>);

impl Default for SharedPaths {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(PathMtus::NONE)))
    }
}

impl SharedPaths {
    /// Every path that is known to be narrow.
    pub fn snapshot(&self) -> Vec<PathSnapshot> {
        self.0.load().snapshot()
    }

    /// Sets the limits of this host's own routes: for each peer the longest datagram in bytes, outer
    /// headers included, or `None` without a limit.
    pub fn limit(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) {
        self.0.rcu(|known| PathMtus::new(known.paths.clone(), known.limits.with(outer_mtus)));
    }

    /// Forgets everything except the limits of this host's own routes.
    pub(super) fn restart(&self) -> Arc<PathMtus> {
        self.0.rcu(|known| PathMtus::new(Vec::new(), known.limits.clone()));
        self.0.load_full()
    }
}
