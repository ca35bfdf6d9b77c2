//! The one bridge from control to data plane: a new [`RouteTable`] for every worker.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::RouteTable;

/// Control's end: replaces the table.
#[derive(Debug, Clone)]
pub struct RoutePublisher {
    current: Arc<ArcSwap<RouteTable>>,
}

/// A worker's end: holds the table that was current at the last [`refresh`](Self::refresh).
///
/// A worker refreshes between batches, which takes no lock, and looks up without any atomic
/// operation after that.
#[derive(Debug, Clone)]
pub struct RouteSubscriber {
    current: Arc<ArcSwap<RouteTable>>,
    table: Arc<RouteTable>,
}

/// A publisher of an empty table, and a subscriber to clone for each worker.
pub fn channel() -> (RoutePublisher, RouteSubscriber) {
    let current = Arc::new(ArcSwap::from_pointee(RouteTable::empty()));
    let publisher = RoutePublisher { current: Arc::clone(&current) };
    let table = current.load_full();
    (publisher, RouteSubscriber { current, table })
}

impl RoutePublisher {
    /// Makes `table` what every worker's next batch is looked up in.
    pub fn publish(&self, table: RouteTable) {
        self.current.store(Arc::new(table));
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
mod tests {
    use super::*;
    use crate::routes::{NextHop, Route};

    #[test]
    fn published_table_is_seen_at_the_next_refresh_by_every_clone() {
        let (publisher, mut first) = channel();
        let mut second = first.clone();
        let subnet = "10.1.2.0/24".parse().unwrap();
        let next_hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
        publisher.publish(RouteTable::build(
            "10.1.0.0/16".parse().unwrap(),
            24,
            [Route { subnet, next_hop }],
        ));
        for subscriber in [&mut first, &mut second] {
            assert!(subscriber.table().is_empty());
            subscriber.refresh();
            assert_eq!(subscriber.table().lookup(subnet.addr()), Some(next_hop));
        }
    }
}
