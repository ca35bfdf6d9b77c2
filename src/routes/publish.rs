//! The one bridge from control to data plane: a new [`RouteTable`] for every worker.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::RouteTable;

/// Control's end: replaces the table.
#[derive(Debug, Clone)]
pub struct RoutePublisher {
    current: Arc<ArcSwap<RouteTable>>,
}

/// A worker's end: holds the table that was current at the last [`refresh`](Self::refresh).
///
/// Refreshing compares one pointer; it takes no lock, and only a change touches a reference
/// count. A worker refreshes between batches and looks up without any atomic after that.
#[derive(Debug, Clone)]
pub struct RouteSubscriber {
    cache: Cache<Arc<ArcSwap<RouteTable>>, Arc<RouteTable>>,
}

/// A publisher of an empty table, and a subscriber to clone for each worker.
pub fn channel() -> (RoutePublisher, RouteSubscriber) {
    let current = Arc::new(ArcSwap::from_pointee(RouteTable::empty()));
    let publisher = RoutePublisher { current: Arc::clone(&current) };
    (publisher, RouteSubscriber { cache: Cache::new(current) })
}

impl RoutePublisher {
    /// Makes `table` what every worker's next batch is looked up in.
    pub fn publish(&self, table: RouteTable) {
        self.current.store(Arc::new(table));
    }
}

impl RouteSubscriber {
    /// The newest table.
    #[inline]
    pub fn refresh(&mut self) -> &RouteTable {
        self.cache.load()
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
        assert!(first.refresh().is_empty());
        let subnet = "10.1.2.0/24".parse().unwrap();
        let next_hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
        publisher.publish(RouteTable::build(
            "10.1.0.0/16".parse().unwrap(),
            24,
            [Route { subnet, next_hop }],
        ));
        for subscriber in [&mut first, &mut second] {
            assert_eq!(subscriber.refresh().lookup(subnet.addr()), Some(next_hop));
        }
    }
}
