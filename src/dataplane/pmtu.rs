//! Path MTU: how long a packet each peer's path takes, as learned. Pure state, no I/O.
//!
//! An underlay that shrank says so with an ICMP, or the kernel refuses a send; `worker/heed.rs`
//! then asks the kernel what the path takes and brings the answer here. Until a path is known to
//! be narrow it is taken to be as wide as the overlay.
//!
//! What is learned is shared by all workers, since the kernel may give an ICMP to the socket of
//! any of them. Like the route table it is replaced as a whole, and read without a lock.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// What the outer headers add to a packet, in bytes: IPv4 without options 20, UDP 8.
/// `encapOverhead` in flannel's `pkg/backend/udp/udp_network_amd64.go`.
pub const ENCAP_OVERHEAD_V4: u32 = 28;

/// The least MTU that IPv4 knows, in bytes: RFC 791, section 3.2.
pub const MIN_IPV4_MTU: u16 = 68;

/// How long a path is held to be narrow: RFC 1191, section 6.3. Linux forgets after as long
/// (`net.ipv4.route.mtu_expires`), so the next long packet asks the path anew.
const LIFETIME: Duration = Duration::from_secs(600);

/// Most peers with a narrow path: more than any honest underlay has, and 24 KiB. Whoever forges
/// ICMPs about addresses of his choice gets no further; the oldest entry makes room.
const MAX_PEERS: usize = 1024;

/// What one peer's path takes.
#[derive(Debug, Clone, Copy)]
struct NarrowPath {
    peer: Ipv4Addr,
    /// Length of the longest inner packet, in bytes.
    longest: u16,
    /// When this is forgotten.
    until: Instant,
}

/// The narrow paths known at one time; immutable.
#[derive(Debug)]
pub struct PathMtus {
    /// Sorted by peer.
    narrow: Vec<NarrowPath>,
    /// Length of the longest packet that every path takes, in bytes.
    narrowest: usize,
}

impl PathMtus {
    /// No path is known to be narrow.
    pub const NONE: Self = Self { narrow: Vec::new(), narrowest: usize::MAX };

    fn new(narrow: Vec<NarrowPath>) -> Self {
        let shortest = narrow.iter().map(|path| usize::from(path.longest)).min();
        Self { narrow, narrowest: shortest.unwrap_or(usize::MAX) }
    }

    /// Length of the longest packet that every path takes, in bytes: what is no longer needs no
    /// further look. `usize::MAX` while no path is known to be narrow.
    #[inline]
    pub const fn narrowest(&self) -> usize {
        self.narrowest
    }

    /// Length of the longest packet that the path to `peer` takes, in bytes, if it is narrow.
    pub fn longest_to(&self, peer: Ipv4Addr) -> Option<u16> {
        let index = self.narrow.binary_search_by_key(&peer, |path| path.peer).ok()?;
        Some(self.narrow[index].longest)
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.narrow.iter().map(|path| path.until).min()
    }

    /// These paths but for those whose time is over at `now`.
    fn still_narrow(&self, now: Instant) -> Vec<NarrowPath> {
        self.narrow.iter().copied().filter(|path| path.until > now).collect()
    }

    /// These paths with the one to `peer` as wide as `longest`, or not narrow at all.
    fn with(&self, peer: Ipv4Addr, longest: Option<u16>, now: Instant) -> Self {
        let mut narrow = self.still_narrow(now);
        narrow.retain(|path| path.peer != peer);
        if let Some(longest) = longest {
            if narrow.len() >= MAX_PEERS
                && let Some(oldest) = (0..narrow.len()).min_by_key(|&index| narrow[index].until)
            {
                narrow.remove(oldest);
            }
            let index = narrow.partition_point(|path| path.peer < peer);
            narrow.insert(index, NarrowPath { peer, longest, until: now + LIFETIME });
        }
        Self::new(narrow)
    }
}

/// A worker's view of the paths that all workers learn; clone it for each.
#[derive(Debug, Clone)]
pub struct PathMtuCache {
    shared: Arc<ArcSwap<PathMtus>>,
    current: Arc<PathMtus>,
    /// When the first of `current` is to be forgotten.
    next_expiry: Option<Instant>,
    /// A path that takes packets of this length is not narrow.
    wide: u16,
}

impl PathMtuCache {
    /// Knows no narrow path yet; packets are at most `overlay_mtu` bytes long.
    pub fn new(overlay_mtu: u16) -> Self {
        let current = Arc::new(PathMtus::NONE);
        let shared = Arc::new(ArcSwap::new(Arc::clone(&current)));
        Self { shared, current, next_expiry: None, wide: overlay_mtu }
    }

    /// Never holds a path to be narrow: datagrams longer than a path takes are to be fragmented.
    pub fn off() -> Self {
        Self::new(0)
    }

    /// Takes over what other workers learned, and forgets what is out of date at `now`.
    #[inline]
    pub fn refresh(&mut self, now: Instant) {
        let newest = self.shared.load();
        if !Arc::ptr_eq(&newest, &self.current) {
            self.current = Arc::clone(&newest);
            self.next_expiry = self.current.next_expiry();
        }
        drop(newest);
        if self.next_expiry.is_some_and(|expiry| expiry <= now) {
            self.replace(|paths| PathMtus::new(paths.still_narrow(now)));
        }
    }

    /// The paths as of the last refresh.
    #[inline]
    pub fn current(&self) -> &PathMtus {
        &self.current
    }

    /// Whether it is news that a packet of `len` bytes is too long for the path to `peer`.
    pub fn expects(&self, peer: Ipv4Addr, len: usize) -> bool {
        len <= usize::from(self.current.longest_to(peer).unwrap_or(self.wide))
    }

    /// Takes in that datagrams to `peer`, outer headers included, may be `outer_mtu` bytes long.
    /// A path that IPv4 does not know (RFC 791 asks for 68 bytes) is not believed. Returns how
    /// long packets to `peer` may be from now on, if the path was not known to be as narrow.
    pub fn learn(&mut self, peer: Ipv4Addr, outer_mtu: u32, now: Instant) -> Option<u16> {
        let longest = outer_mtu.saturating_sub(ENCAP_OVERHEAD_V4);
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        if longest < MIN_IPV4_MTU {
            return None;
        }
        let before = self.current.longest_to(peer);
        let longest = Some(longest).filter(|&longest| longest < self.wide);
        if before.is_some() || longest.is_some() {
            self.replace(|paths| paths.with(peer, longest, now));
        }
        longest.filter(|_| longest != before)
    }

    fn replace(&mut self, change: impl Fn(&PathMtus) -> PathMtus) {
        self.shared.rcu(|paths| change(paths));
        self.current = self.shared.load_full();
        self.next_expiry = self.current.next_expiry();
    }
}

#[cfg(test)]
mod tests;
