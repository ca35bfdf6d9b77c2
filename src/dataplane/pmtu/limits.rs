//! Limits that the operator set with a route's `mtu`. ICMP errors do not change them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::MIN_IPV4_MTU;
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;

/// Length of the longest packet to each peer whose route has a limit, in bytes, sorted by peer.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Limits(Option<Arc<[(Ipv4Addr, u16)]>>);

impl Limits {
    pub(super) const NONE: Self = Self(None);

    fn all(&self) -> &[(Ipv4Addr, u16)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The limit of `peer`.
    pub(super) fn of(&self, peer: Ipv4Addr) -> Option<u16> {
        let limits = self.all();
        let index = limits.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
        Some(limits[index].1)
    }

    /// The peers that have a limit.
    pub(super) fn peers(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.all().iter().map(|(peer, _)| *peer)
    }

    /// The smallest limit; `usize::MAX` if there is none.
    pub(super) fn least(&self) -> usize {
        self.all().iter().map(|(_, limit)| usize::from(*limit)).min().unwrap_or(usize::MAX)
    }

    /// These limits with changes, which include the outer headers.
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
