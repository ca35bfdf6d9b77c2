//! [`RouteTable`]: subnet → next hop, immutable.

use std::net::Ipv4Addr;

use super::lpm::Lpm;
use super::{NextHop, Subnet};

/// One entry of a [`RouteTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destinations that take this route.
    pub subnet: Subnet,
    /// Where they are sent.
    pub next_hop: NextHop,
}

/// Subnet → next hop, built once from all routes and only looked up after that.
///
/// Every flannel lease has the same prefix length, `SubnetLen`, so a destination's slot is
/// `(dst - Network) >> (32 - SubnetLen)`: an index into one array, a few nanoseconds at any size.
/// Routes of another length (written by hand, or under an older configuration) go to a
/// longest-prefix match that is asked only if there are any; a longer prefix than `SubnetLen`
/// wins over the array, a shorter one loses to it.
#[derive(Debug)]
pub struct RouteTable {
    /// First address of the Network, in host order.
    base: u32,
    /// 32 - SubnetLen; what is left of `dst - base` after this shift is the slot.
    shift: u32,
    /// Slot → index into `next_hops`, plus one; 0 is "no route".
    slots: Box<[u32]>,
    next_hops: Box<[NextHop]>,
    longer: Lpm,
    shorter: Lpm,
    num_routes: usize,
}

/// Most slots of the direct array: 4 Mi slots of 4 bytes are 16 MiB. A Network that would need
/// more (a /8 cut into /30s, say) is looked up by longest-prefix match alone.
const MAX_SLOT_BITS: u32 = 22;

impl RouteTable {
    /// A table without routes: every lookup fails.
    pub fn empty() -> Self {
        Self {
            base: 0,
            shift: 32,
            slots: Box::default(),
            next_hops: Box::default(),
            longer: Lpm::default(),
            shorter: Lpm::default(),
            num_routes: 0,
        }
    }

    /// Builds the table of an overlay whose `network` is cut into subnets of `subnet_len` bits.
    ///
    /// Routes may have any subnet, inside `network` or not; of two equal subnets the later wins.
    pub fn build(network: Subnet, subnet_len: u8, routes: impl IntoIterator<Item = Route>) -> Self {
        let slot_bits = u32::from(subnet_len.saturating_sub(network.prefix_len()));
        let direct = subnet_len <= 32 && slot_bits <= MAX_SLOT_BITS;
        let mut table = Self::empty();
        if direct {
            table.base = network.addr().to_bits();
            table.shift = 32 - u32::from(subnet_len);
            table.slots = vec![0; 1 << slot_bits].into_boxed_slice();
        }
        let mut next_hops = Vec::new();
        for Route { subnet, next_hop } in routes {
            table.num_routes += 1;
            if direct && subnet.prefix_len() == subnet_len && network.contains(subnet.addr()) {
                next_hops.push(next_hop);
                let slot = (subnet.addr().to_bits() - table.base).checked_shr(table.shift);
                let slot = slot.unwrap_or(0) as usize;
                table.slots[slot] = u32::try_from(next_hops.len()).unwrap_or(0);
            } else if subnet.prefix_len() >= subnet_len {
                table.longer.insert(subnet, next_hop);
            } else {
                table.shorter.insert(subnet, next_hop);
            }
        }
        table.next_hops = next_hops.into_boxed_slice();
        table
    }

    /// The next hop of `dst`, or `None` without a route.
    #[inline]
    pub fn lookup(&self, dst: Ipv4Addr) -> Option<NextHop> {
        if !self.longer.is_empty()
            && let Some(next_hop) = self.longer.lookup(dst)
        {
            return Some(next_hop);
        }
        let offset = dst.to_bits().wrapping_sub(self.base);
        // A shift of 32 (SubnetLen 0, or no array at all) leaves slot 0.
        let slot = offset.checked_shr(self.shift).unwrap_or(0) as usize;
        match self.slots.get(slot) {
            Some(&index) if index != 0 => Some(self.next_hops[index as usize - 1]),
            Some(_) | None if self.shorter.is_empty() => None,
            Some(_) | None => self.shorter.lookup(dst),
        }
    }

    /// How many routes the table was built from.
    pub const fn len(&self) -> usize {
        self.num_routes
    }

    /// Whether the table was built from no route at all.
    pub const fn is_empty(&self) -> bool {
        self.num_routes == 0
    }
}

#[cfg(test)]
mod tests;
