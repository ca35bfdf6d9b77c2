//! The one bridge from control to data plane: routes, changed while every worker looks them up.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnetwork::Ipv4Network;

use super::{NextHop, RouteTable};

/// What becomes of the route to a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteChange {
    /// The destinations.
    pub subnet: Ipv4Network,
    /// Where they are sent from now on; `None` ends the route.
    pub next_hop: Option<NextHop>,
}

/// Control's end: changes the routes.
#[derive(Debug)]
pub struct RoutePublisher {
    current: Arc<ArcSwap<RouteTable>>,
    /// The routes that the table's array does not hold, few if any.
    odd: BTreeMap<Ipv4Network, NextHop>,
}

/// A worker's end: holds the table that was current at the last [`refresh`](Self::refresh).
///
/// A worker refreshes between batches, which takes no lock, and looks up without any atomic
/// read-modify-write after that.
#[derive(Debug, Clone)]
pub struct RouteSubscriber {
    current: Arc<ArcSwap<RouteTable>>,
    table: Arc<RouteTable>,
}

/// The publisher of a table without routes, for an overlay whose `network` is cut into subnets of
/// `subnet_len` bits, and a subscriber to clone for each worker.
pub fn channel(network: Ipv4Network, subnet_len: u8) -> (RoutePublisher, RouteSubscriber) {
    let current = Arc::new(ArcSwap::from_pointee(RouteTable::new(network, subnet_len)));
    let publisher = RoutePublisher { current: Arc::clone(&current), odd: BTreeMap::new() };
    let table = current.load_full();
    (publisher, RouteSubscriber { current, table })
}

impl RoutePublisher {
    /// Makes all changes, in order. A change to a subnet of the network's own `SubnetLen` costs one
    /// store, whatever the number of routes, and holds for the next packet; all others together
    /// cost a copy of the routes of their kind, and hold for every worker's next batch.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = RouteChange>) {
        let table = self.current.load();
        let mut has_irregular = false;
        for RouteChange { subnet, next_hop } in changes {
            if table.direct.holds(subnet) {
                table.direct.set(subnet, next_hop);
                continue;
            }
            has_irregular |= match next_hop {
                Some(next_hop) => self.odd.insert(subnet, next_hop) != Some(next_hop),
                None => self.odd.remove(&subnet).is_some(),
            };
        }
        if has_irregular {
            self.current.store(Arc::new(table.with_irregular(&self.odd)));
        }
    }

    /// How many routes there are.
    pub fn num_routes(&self) -> usize {
        self.current.load().len()
    }
}

impl RouteSubscriber {
    /// Takes over the newest table.
    #[inline]
    pub fn refresh(&mut self) {
        let newest = self.current.load();
        if !Arc::ptr_eq(&newest, &self.table) {
            self.table = Arc::clone(&newest);
        }
    }

    /// The table as of the last refresh.
    #[inline]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }
}

#[cfg(test)]
mod tests;
