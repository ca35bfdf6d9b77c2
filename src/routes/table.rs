//! [`RouteTable`]: subnet → next hop.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use super::NextHop;
use super::direct::DirectArray;
use super::lpm::Lpm;

/// 0.0.0.0/0.
const EVERY_ADDRESS: Ipv4Network = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).unwrap();

/// One entry of a [`RouteTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destinations that take this route.
    pub subnet: Ipv4Network,
    /// Where they are sent.
    pub next_hop: NextHop,
}

/// Subnet → next hop, as workers look it up.
///
/// Every flannel lease has the same prefix length, `SubnetLen`, so a destination's slot is
/// `(dst - Network) >> (32 - SubnetLen)`: an index into one array, a few nanoseconds at any size.
/// Routes of another length (written by hand, or under an older configuration) go to a
/// longest-prefix match, which is searched only if there are any. A prefix longer than `SubnetLen`
/// takes precedence over the array, a shorter one does not.
///
/// The array is shared with the [publisher](super::publish), which changes it in place. The
/// longest-prefix matches are immutable and are replaced together with the table.
#[derive(Debug)]
pub struct RouteTable {
    pub(super) direct: Arc<DirectArray>,
    subnet_len: u8,
    longer: Lpm,
    shorter: Lpm,
}

impl RouteTable {
    /// A table without routes: every lookup fails.
    pub fn empty() -> Self {
        Self::new(EVERY_ADDRESS, 0)
    }

    /// A table without routes, for an overlay whose `network` is cut into subnets of `subnet_len`
    /// bits.
    pub fn new(network: Ipv4Network, subnet_len: u8) -> Self {
        let direct = Arc::new(DirectArray::new(network, subnet_len));
        Self { direct, subnet_len, longer: Lpm::default(), shorter: Lpm::default() }
    }

    /// Builds the table of an overlay whose `network` is cut into subnets of `subnet_len` bits.
    ///
    /// Routes may have any subnet, inside `network` or not; of two equal subnets the later wins.
    pub fn build(
        network: Ipv4Network,
        subnet_len: u8,
        routes: impl IntoIterator<Item = Route>,
    ) -> Self {
        let mut table = Self::new(network, subnet_len);
        for Route { subnet, next_hop } in routes {
            if table.direct.holds(subnet) {
                table.direct.set(subnet, Some(next_hop));
            } else {
                table.insert_irregular(subnet, next_hop);
            }
        }
        table
    }

    /// A table with the same array, and `irregular` routes instead of those that the array does not
    /// hold.
    pub(super) fn with_irregular<'a>(
        &self,
        irregular: impl IntoIterator<Item = (&'a Ipv4Network, &'a NextHop)>,
    ) -> Self {
        let (direct, subnet_len) = (Arc::clone(&self.direct), self.subnet_len);
        let mut table =
            Self { direct, subnet_len, longer: Lpm::default(), shorter: Lpm::default() };
        for (&subnet, &next_hop) in irregular {
            table.insert_irregular(subnet, next_hop);
        }
        table
    }

    fn insert_irregular(&mut self, subnet: Ipv4Network, next_hop: NextHop) {
        let is_longer = subnet.prefix() >= self.subnet_len;
        let lpm = if is_longer { &mut self.longer } else { &mut self.shorter };
        lpm.insert(subnet, next_hop);
    }

    /// The next hop of `dst`, or `None` without a route.
    #[inline]
    pub fn lookup(&self, dst: Ipv4Addr) -> Option<NextHop> {
        if !self.longer.is_empty()
            && let Some(next_hop) = self.longer.lookup(dst)
        {
            return Some(next_hop);
        }
        match self.direct.lookup(dst) {
            None if !self.shorter.is_empty() => self.shorter.lookup(dst),
            found => found,
        }
    }

    /// The overlay's whole range.
    pub fn network(&self) -> Ipv4Network {
        self.direct.network()
    }

    /// The next hops of all routes, in no order; takes as long as the network has subnets.
    pub fn next_hops(&self) -> impl Iterator<Item = NextHop> {
        self.direct.next_hops().chain(self.longer.next_hops()).chain(self.shorter.next_hops())
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.direct.len() + self.longer.len() + self.shorter.len()
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
