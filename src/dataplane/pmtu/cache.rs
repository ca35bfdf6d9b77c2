//! [`PathMtuCache`]: one worker's view of the paths that all workers learn.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::path::PeerPath;
use super::paths::{PathMtus, SharedPaths};
use super::{Claim, Event, MIN_IPV4_MTU, PLATEAUS};
use crate::dataplane::io::underlay_error::{Quote, TooLong};
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;

/// A worker's view of the paths that all workers learn; clone it for each.
#[derive(Debug, Clone)]
pub struct PathMtuCache {
    shared: SharedPaths,
    current: Arc<PathMtus>,
    /// When something in `current` changes by time alone.
    pub(super) next_event: Option<Instant>,
    /// Length in bytes of the longest packet of the overlay.
    overlay_mtu: u16,
    /// The time of the last refresh.
    now: Instant,
    events: Vec<(Ipv4Addr, Event)>,
}

impl PathMtuCache {
    /// Knows nothing yet; packets are at most `overlay_mtu` bytes long.
    pub fn new(overlay_mtu: u16) -> Self {
        Self::sharing(SharedPaths::default(), overlay_mtu)
    }

    /// Learns into `shared`. What `shared` knows is forgotten, because it may be about another
    /// overlay MTU.
    pub fn sharing(shared: SharedPaths, overlay_mtu: u16) -> Self {
        let current = shared.restart();
        let (next_event, events) = (None, Vec::new());
        Self { shared, current, next_event, overlay_mtu, now: Instant::now(), events }
    }

    /// Never considers a path narrow, because the kernel fragments long datagrams.
    pub fn off() -> Self {
        Self::new(0)
    }

    /// Takes over what other workers learned, and what changes by time at `now`.
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

    /// Whether an answer to a probe may come, so that the error queue should be read.
    pub fn awaits_answer(&self) -> bool {
        self.current.awaits_answer()
    }

    /// Makes the datagram to `peer` that begins with `bytes` the probe that is due. Returns false if
    /// another worker has already sent it.
    pub fn claim_probe(&mut self, peer: Ipv4Addr, bytes: Quote) -> bool {
        let now = self.now;
        self.change(|paths| {
            let mut path = *paths.path_to(peer).filter(|path| path.wants_probe())?;
            path.probe_sent(bytes, now);
            Some((paths.with(path), ()))
        })
        .is_some()
    }

    /// The changes that this worker caused since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = (Ipv4Addr, Event)> {
        self.events.drain(..)
    }

    /// Learns from this host itself that datagrams to `peer` may be `outer_mtu` bytes long, outer
    /// headers included.
    pub fn learn(&mut self, peer: Ipv4Addr, outer_mtu: u32, now: Instant) {
        self.handle_claim(peer, &TooLong { outer_mtu, is_local: true, quote: Quote::EMPTY }, now);
    }

    /// Handles an error about a datagram to `peer` that was too long. Rejects an MTU that IPv4 does
    /// not allow (RFC 791 requires 68 bytes), and one that every packet of the overlay fits.
    pub fn handle_claim(&mut self, peer: Ipv4Addr, error: &TooLong, now: Instant) {
        let known = self.current.longest_to(peer).unwrap_or(self.overlay_mtu);
        let outer_mtu = match error.outer_mtu {
            0 => plateau_below(u32::from(known) + ENCAP_OVERHEAD_V4),
            named => named,
        };
        let longest = outer_mtu.saturating_sub(ENCAP_OVERHEAD_V4);
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        if longest < MIN_IPV4_MTU || longest >= self.overlay_mtu {
            if !error.is_local {
                self.reject(peer);
            }
            return;
        }
        let claim = Claim { is_local: error.is_local, quote: error.quote };
        let event = self.change(|paths| {
            let before = paths.path_to(peer).copied();
            let mut path = before.unwrap_or_else(|| PeerPath::new(peer, now));
            let event = path.handle_claim(&claim, longest, now);
            (Some(path) != before).then(|| (paths.with(path), event))
        });
        match event {
            Some(event) => self.events.extend(event.map(|event| (peer, event))),
            // Nothing changed; but every false claim is counted, even in a flood.
            None if self.current.longest_to(peer).is_none() => self.reject(peer),
            None => {}
        }
    }

    /// Counts a claim that cannot be about a datagram of ours to `peer`.
    pub fn reject(&mut self, peer: Ipv4Addr) {
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

    /// Replaces the shared paths by what `change` makes of them, if it returns something. Returns
    /// its second result then. `change` runs again if another worker was faster.
    fn change<R>(
        &mut self,
        mut change: impl FnMut(&PathMtus) -> Option<(PathMtus, R)>,
    ) -> Option<R> {
        let mut result = None;
        self.shared.0.rcu(|paths| match change(paths) {
            Some((changed, value)) => {
                result = Some(value);
                Arc::new(changed)
            }
            None => {
                result = None;
                Arc::clone(paths)
            }
        });
        self.current = self.shared.0.load_full();
        self.next_event = self.current.next_event();
        result
    }
}

/// The largest common link MTU below `outer_len` bytes.
fn plateau_below(outer_len: u32) -> u32 {
    PLATEAUS.into_iter().find(|&plateau| plateau < outer_len).unwrap_or(0)
}
