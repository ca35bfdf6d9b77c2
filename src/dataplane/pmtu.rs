//! Path MTU: how long a packet each peer's path takes, as learned. Pure state, no I/O.
//!
//! An underlay that shrank says so with an ICMP, which anybody can forge. So an ICMP is a reason
//! to send a probe: `pmtu/path.rs` says when a claim is proven. Until then no sender gets a
//! *fragmentation needed*, and a path that is not known to be narrow counts as wide as the overlay.
//!
//! What is learned is shared by all workers, since the kernel may give an ICMP to the socket of
//! any of them. Like the route table it is replaced as a whole, and read without a lock.
//!
//! A limit that this host's own routes set needs no proof and does not age: `pmtu/limits.rs`.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use serde::Serialize;

use super::io::underlay_error::{Quote, TooLong};

mod limits;
mod path;

use limits::Limits;
use path::PeerPath;
pub use path::Treatment;

/// What the outer headers add to a packet, in bytes: IPv4 without options 20, UDP 8.
/// `encapOverhead` in flannel's `pkg/backend/udp/udp_network_amd64.go`.
pub const ENCAP_OVERHEAD_V4: u32 = 28;

/// The least MTU that IPv4 knows, in bytes: RFC 791, section 3.2.
pub const MIN_IPV4_MTU: u16 = 68;

/// The least that is believed of a path, in bytes of inner packet, if no byte of ours proves it:
/// Linux's `net.ipv4.route.min_pmtu` of 552, less the outer headers.
const MIN_UNPROVEN_MTU: u16 = 552 - 28;

/// Links that there are, by their MTUs, for routers that do not name theirs: RFC 1191, section 7.1.
const PLATEAUS: [u32; 10] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// Most peers that anything is remembered of; the one whose time is over first makes room.
const MAX_PEERS: usize = 1024;

/// What an error says of a path.
#[derive(Debug, Clone, Copy)]
struct Claim {
    is_local: bool,
    quote: Quote,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody says that it is narrow; a probe will show.
    Claimed,
    /// The claim cannot be about a datagram of ours, or is one more false one.
    Refused,
    /// It is narrow: this is the longest packet it takes, in bytes.
    Narrowed(u16),
    /// It is narrow, but takes longer packets than was known.
    Widened(u16),
    /// It is as wide as the overlay again.
    Recovered,
    /// The claim was false, as the first in a while.
    Disproved,
}

/// What is known of all paths at one time; immutable.
#[derive(Debug)]
pub struct PathMtus {
    /// Sorted by peer.
    paths: Vec<PeerPath>,
    limits: Limits,
    /// Length of the longest packet that every path takes, in bytes.
    narrowest: usize,
    awaits_answer: bool,
}

/// A reading of one narrow path, as `/stats` serves it.
#[derive(Debug, Clone, Serialize)]
pub struct PathSnapshot {
    /// The peer's public IP.
    pub peer: Ipv4Addr,
    /// Length of the longest packet that its path takes, in bytes.
    pub mtu: u16,
}

impl PathMtus {
    /// Nothing is known of any path.
    pub const NONE: Self = Self {
        paths: Vec::new(),
        limits: Limits::NONE,
        narrowest: usize::MAX,
        awaits_answer: false,
    };

    fn new(paths: Vec<PeerPath>, limits: Limits) -> Self {
        let narrowest = paths.iter().map(PeerPath::longest_plain).min().unwrap_or(usize::MAX);
        let narrowest = narrowest.min(limits.least());
        let awaits_answer = paths.iter().any(PeerPath::awaits_answer);
        Self { paths, limits, narrowest, awaits_answer }
    }

    /// Length of the longest packet that every path takes, in bytes: what is no longer needs no
    /// further look. `usize::MAX` while nobody says that a path is narrow.
    #[inline]
    pub const fn narrowest(&self) -> usize {
        self.narrowest
    }

    /// Length of the longest packet that the path to `peer` takes, in bytes, if it is known to be
    /// narrow.
    pub fn longest_to(&self, peer: Ipv4Addr) -> Option<u16> {
        let proven = self.path_to(peer).and_then(PeerPath::proven);
        proven.into_iter().chain(self.limits.of(peer)).min()
    }

    /// What becomes of a packet of `len` bytes to `peer`.
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

    fn path_to(&self, peer: Ipv4Addr) -> Option<&PeerPath> {
        let index = self.paths.binary_search_by_key(&peer, |path| path.peer).ok()?;
        Some(&self.paths[index])
    }

    fn next_event(&self) -> Option<Instant> {
        self.paths.iter().map(PeerPath::next_event).min()
    }

    /// These paths with `changed` in place of what was known of its peer.
    fn with(&self, changed: PeerPath) -> Self {
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

/// What is known of all paths, as all workers share it and anybody may read it.
#[derive(Debug, Clone)]
pub struct SharedPaths(Arc<ArcSwap<PathMtus>>);

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

    /// Takes over what this host's own routes say: of each peer the longest datagram, outer headers
    /// included, in bytes; `None` if they set no limit.
    pub fn limit(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) {
        self.0.rcu(|known| PathMtus::new(known.paths.clone(), known.limits.with(outer_mtus)));
    }

    /// Forgets all but what this host's own routes say.
    fn restart(&self) -> Arc<PathMtus> {
        self.0.rcu(|known| PathMtus::new(Vec::new(), known.limits.clone()));
        self.0.load_full()
    }
}

/// A worker's view of the paths that all workers learn; clone it for each.
#[derive(Debug, Clone)]
pub struct PathMtuCache {
    shared: SharedPaths,
    current: Arc<PathMtus>,
    /// When something of `current` changes by itself.
    next_event: Option<Instant>,
    /// A path that takes packets of this length is not narrow.
    wide: u16,
    /// The time of the last refresh.
    now: Instant,
    events: Vec<(Ipv4Addr, Event)>,
}

impl PathMtuCache {
    /// Knows nothing yet; packets are at most `overlay_mtu` bytes long.
    pub fn new(overlay_mtu: u16) -> Self {
        Self::sharing(SharedPaths::default(), overlay_mtu)
    }

    /// The same, in place of what `shared` has from an overlay of another MTU perhaps.
    pub fn sharing(shared: SharedPaths, overlay_mtu: u16) -> Self {
        let current = shared.restart();
        let (next_event, wide, events) = (None, overlay_mtu, Vec::new());
        Self { shared, current, next_event, wide, now: Instant::now(), events }
    }

    /// Never holds a path to be narrow: datagrams longer than a path takes are to be fragmented.
    pub fn off() -> Self {
        Self::new(0)
    }

    /// Takes over what other workers learned, and does what is due at `now`.
    #[inline]
    pub fn refresh(&mut self, now: Instant) {
        self.now = now;
        let newest = self.shared.0.load();
        if !Arc::ptr_eq(&newest, &self.current) {
            self.current = Arc::clone(&newest);
            self.next_event = self.current.next_event();
        }
        drop(newest);
        if self.next_event.is_some_and(|event| event <= now) {
            self.advance(now);
        }
    }

    /// The paths as of the last refresh.
    #[inline]
    pub fn current(&self) -> &PathMtus {
        &self.current
    }

    /// Whether what comes back may decide something, so that it is worth looking for.
    pub fn awaits_answer(&self) -> bool {
        self.current.awaits_answer
    }

    /// Lets the datagram to `peer` that begins with `bytes` be the probe that is due, unless another
    /// worker's is.
    pub fn claim_probe(&mut self, peer: Ipv4Addr, bytes: Quote) -> bool {
        let now = self.now;
        self.change(|paths| {
            let mut path = *paths.path_to(peer).filter(|path| path.wants_probe())?;
            path.probe_leaves(bytes, now);
            Some((paths.with(path), ()))
        })
        .is_some()
    }

    /// What became of paths since this was last asked, by this worker's doing.
    pub fn take_events(&mut self) -> impl Iterator<Item = (Ipv4Addr, Event)> {
        self.events.drain(..)
    }

    /// Takes in that datagrams to `peer`, outer headers included, may be `outer_mtu` bytes long:
    /// this host knows it.
    pub fn learn(&mut self, peer: Ipv4Addr, outer_mtu: u32, now: Instant) {
        self.hear(peer, &TooLong { outer_mtu, is_local: true, quote: Quote::EMPTY }, now);
    }

    /// Takes in what is said of a datagram to `peer`. What is said of a path that IPv4 does not know
    /// (RFC 791 asks for 68 bytes), or that takes all we ever send, is not believed.
    pub fn hear(&mut self, peer: Ipv4Addr, error: &TooLong, now: Instant) {
        let known = self.current.longest_to(peer).unwrap_or(self.wide);
        let outer_mtu = match error.outer_mtu {
            0 => plateau_below(u32::from(known) + ENCAP_OVERHEAD_V4),
            named => named,
        };
        let longest = outer_mtu.saturating_sub(ENCAP_OVERHEAD_V4);
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        if longest < MIN_IPV4_MTU || longest >= self.wide {
            if !error.is_local {
                self.refuse(peer);
            }
            return;
        }
        let claim = Claim { is_local: error.is_local, quote: error.quote };
        let event = self.change(|paths| {
            let before = paths.path_to(peer).copied();
            let mut path = before.unwrap_or_else(|| PeerPath::new(peer, now));
            let event = path.hear(&claim, longest, now);
            (Some(path) != before).then(|| (paths.with(path), event))
        });
        match event {
            Some(event) => self.events.extend(event.map(|event| (peer, event))),
            // Nothing new: of a flood of lies each is counted all the same.
            None if self.current.longest_to(peer).is_none() => self.refuse(peer),
            None => {}
        }
    }

    /// Counts a claim that cannot be about a datagram of ours to `peer`.
    pub fn refuse(&mut self, peer: Ipv4Addr) {
        self.events.push((peer, Event::Refused));
    }

    fn advance(&mut self, now: Instant) {
        let mut happened = Vec::new();
        let jitter = RandomState::new().build_hasher().finish().to_le_bytes()[0];
        self.change(|paths| {
            happened.clear();
            let (mut paths, limits) = (paths.paths.clone(), paths.limits.clone());
            paths.retain(|path| path.forget_at > now);
            for path in &mut paths {
                happened.extend(path.advance(now, jitter).map(|event| (path.peer, event)));
            }
            Some((PathMtus::new(paths, limits), ()))
        });
        self.events.append(&mut happened);
    }

    /// Replaces what is known by what `change` makes of it, if anything; returns what it said then.
    fn change<R>(
        &mut self,
        mut change: impl FnMut(&PathMtus) -> Option<(PathMtus, R)>,
    ) -> Option<R> {
        let mut said = None;
        self.shared.0.rcu(|paths| match change(paths) {
            Some((changed, says)) => {
                said = Some(says);
                Arc::new(changed)
            }
            None => {
                said = None;
                Arc::clone(paths)
            }
        });
        self.current = self.shared.0.load_full();
        self.next_event = self.current.next_event();
        said
    }
}

/// The longest datagram that a link takes which does not take one of `outer_len` bytes.
fn plateau_below(outer_len: u32) -> u32 {
    PLATEAUS.into_iter().find(|&plateau| plateau < outer_len).unwrap_or(0)
}

#[cfg(test)]
mod tests;
