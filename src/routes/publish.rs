//! The bridge from control to what forwards packets: route changes, and the sinks that take them.
//!
//! ```text
//! lease changes ──translation (control, pure)──► [RouteChange] ──FibSink──► a forwarding table
//! ```
//!
//! [`RoutePublisher`] is the sink for the workers' table, which it changes while they look up routes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnetwork::Ipv4Network;

use super::{NextHop, RouteTable};

/// A change of the route to a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteChange {
    /// The destinations.
    pub subnet: Ipv4Network,
    /// The new next hop; `None` removes the route.
    pub next_hop: Option<NextHop>,
}

/// A forwarding table (FIB) that takes route changes: see docs/adr/0019.
pub trait FibSink: Debug + Send {
    /// Makes all changes, in order. A change that fails does not stop the others.
    ///
    /// # Errors
    /// [`FibError`] about the first change that failed. The sink keeps the old route to that subnet.
    fn apply(&mut self, changes: &[RouteChange]) -> Result<(), FibError>;
}

/// A forwarding table refused a route change.
#[derive(Debug, thiserror::Error)]
#[error("change the route to {subnet} in the {table}")]
pub struct FibError {
    /// The destinations of the change.
    pub subnet: Ipv4Network,
    /// The table, such as `fast path's map`.
    pub table: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Control's end of the workers' table: changes the routes.
#[derive(Debug)]
pub struct RoutePublisher {
    current: Arc<ArcSwap<RouteTable>>,
    /// The routes that the table's array does not hold: few or none.
    irregular: BTreeMap<Ipv4Network, NextHop>,
}

/// A worker's end: holds the table that was current at the last [`refresh`](Self::refresh).
///
/// A worker refreshes between batches, which takes no lock. After that, lookups need no atomic
/// read-modify-write operation.
#[derive(Debug, Clone)]
pub struct RouteSubscriber {
    current: Arc<ArcSwap<RouteTable>>,
    table: Arc<RouteTable>,
}

/// The publisher of a table without routes, for an overlay whose `network` is cut into subnets of
/// `subnet_len` bits, and a subscriber to clone for each worker.
pub fn channel(network: Ipv4Network, subnet_len: u8) -> (RoutePublisher, RouteSubscriber) {
    let current = Arc::new(ArcSwap::from_pointee(RouteTable::new(network, subnet_len)));
    let publisher = RoutePublisher { current: Arc::clone(&current), irregular: BTreeMap::new() };
    let table = current.load_full();
    (publisher, RouteSubscriber { current, table })
}

impl FibSink for RoutePublisher {
    /// Makes all changes, in order; never fails. A change to a subnet of the network's own
    /// `SubnetLen` costs one store, whatever the number of routes, and applies to the next packet.
    /// All other changes together cost a copy of the irregular routes, and apply to the next batch
    /// of each worker.
    fn apply(&mut self, changes: &[RouteChange]) -> Result<(), FibError> {
        let table = self.current.load();
        let mut has_irregular = false;
        for &RouteChange { subnet, next_hop } in changes {
            if table.direct.holds(subnet) {
                table.direct.set(subnet, next_hop);
                continue;
            }
            has_irregular |= match next_hop {
                Some(next_hop) => self.irregular.insert(subnet, next_hop) != Some(next_hop),
                None => self.irregular.remove(&subnet).is_some(),
            };
        }
        if has_irregular {
            self.current.store(Arc::new(table.with_irregular(&self.irregular)));
        }
        Ok(())
    }
}

impl RoutePublisher {
    /// How many routes there are.
    pub fn num_routes(&self) -> usize {
        self.current.load().len()
    }
}

impl RouteSubscriber {
    /// Takes the newest table.
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
