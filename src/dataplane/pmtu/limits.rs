//! Limits that the operator set by a route's `mtu`. An ICMP has no part in them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{ENCAP_OVERHEAD_V4, MIN_IPV4_MTU};

/// Length of the longest packet to each peer that a route sets a limit for, in bytes, sorted by
/// peer. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Limits(Option<Arc<[(Ipv4Addr, u16)]>>);

impl Limits {
    pub(super) const NONE: Self = Self(None);

    fn all(&self) -> &[(Ipv4Addr, u16)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The one for `peer`.
    pub(super) fn of(&self, peer: Ipv4Addr) -> Option<u16> {
        let limits = self.all();
        let index = limits.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
        Some(limits[index].1)
    }

    /// Peers that there is a limit for.
    pub(super) fn peers(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.all().iter().map(|(peer, _)| *peer)
    }

    /// The least of them; `usize::MAX` without any.
    pub(super) fn least(&self) -> usize {
        self.all().iter().map(|(_, limit)| usize::from(*limit)).min().unwrap_or(usize::MAX)
    }

    /// These with what has changed, outer headers included.
    pub(super) fn with(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) -> Self {
        let mut limits: BTreeMap<_, _> = self.all().iter().copied().collect();
        for (peer, outer_mtu) in outer_mtus {
            let longest = outer_mtu.map(|mtu| mtu.saturating_sub(ENCAP_OVERHEAD_V4));
            match longest.and_then(|longest| u16::try_from(longest).ok()) {
                Some(longest) => limits.insert(*peer, longest.max(MIN_IPV4_MTU)),
                None => limits.remove(peer),
            };
        }
        Self((!limits.is_empty()).then(|| limits.into_iter().collect()))
    }
}
