//! Longest-prefix match for routes that the direct array does not hold. No I/O.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use prefix_trie::PrefixMap;

use super::NextHop;

/// Subnets of any length → next hops; the longest match wins.
#[derive(Debug, Default)]
pub(super) struct Lpm {
    map: PrefixMap<Ipv4Network, NextHop>,
    num_routes: usize,
}

impl Lpm {
    /// Adds a route; a later one replaces an equal subnet's.
    pub(super) fn insert(&mut self, subnet: Ipv4Network, next_hop: NextHop) {
        self.num_routes += usize::from(self.map.insert(subnet, next_hop).is_none());
    }

    /// The next hop of the longest subnet that holds `dst`.
    pub(super) fn lookup(&self, dst: Ipv4Addr) -> Option<NextHop> {
        self.map.get_lpm(&Ipv4Network::from(dst)).map(|(_, next_hop)| *next_hop)
    }

    /// The next hops of all routes.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = NextHop> {
        self.map.values().copied()
    }

    /// How many routes there are.
    pub(super) const fn len(&self) -> usize {
        self.num_routes
    }

    /// Whether there are no routes, so that a lookup can be skipped.
    pub(super) const fn is_empty(&self) -> bool {
        self.num_routes == 0
    }
}
