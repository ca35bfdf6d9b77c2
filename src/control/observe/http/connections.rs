//! [`Connections`]: the endpoint's connections, and which is closed to make room for the next.
//!
//! Every connection is accepted. If there are too many, the oldest one without a request is closed:
//! one of the same source if that source has used up its share, else one of the source with the most
//! connections. So a source with one connection keeps it, whatever the others do.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 256;

/// Of all places, one source takes at most one in so many.
const SHARE: usize = 4;

/// Of all descriptors that the process may have, the endpoint takes at most one in so many: etcd
/// and the rules need theirs.
const DESCRIPTOR_SHARE: usize = 4;

/// All connections.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    max: usize,
    num_ever: u64,
    /// The oldest first.
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    source: IpAddr,
    has_asked: bool,
    task: AbortHandle,
}

/// One connection's place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    connections: Connections,
}

impl Connections {
    /// None yet, and room for as many as a process with so many descriptors can spare.
    pub(super) fn new(max_descriptors: usize) -> Self {
        let max = (max_descriptors / DESCRIPTOR_SHARE).clamp(SHARE, MAX_CONNECTIONS);
        let table = Table { max, num_ever: 0, open: BTreeMap::new() };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// Makes room for a connection from `source`, and has `serve` start the task that serves it.
    pub(super) fn admit(&self, source: IpAddr, serve: impl FnOnce(Place) -> AbortHandle) {
        let source = network_of(source);
        let mut table = self.lock();
        table.make_room(source);
        table.num_ever += 1;
        let number = table.num_ever;
        // The lock is held: what the task does with its place comes after this.
        let task = serve(Place { number, connections: self.clone() });
        table.open.insert(number, Open { source, has_asked: false, task });
    }

    /// Closes one connection, if there is any.
    pub(super) fn close_one(&self) {
        self.lock().close_oldest(|_| true);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn make_room(&mut self, source: IpAddr) {
        let mut sources: HashMap<IpAddr, usize> = HashMap::new();
        for open in self.open.values() {
            *sources.entry(open.source).or_default() += 1;
        }
        if sources.get(&source).is_some_and(|&num| num >= self.max / SHARE) {
            self.close_oldest(|open| open.source == source);
        } else if self.open.len() >= self.max {
            let most = sources.into_iter().max_by_key(|(_, num)| *num);
            self.close_oldest(|open| most.is_none_or(|(source, _)| open.source == source));
        }
    }

    /// Closes the oldest that has asked nothing, or the oldest of all if each has asked.
    fn close_oldest(&mut self, is_candidate: impl Fn(&Open) -> bool) {
        let candidates = || self.open.iter().filter(|(_, open)| is_candidate(open));
        let silent = candidates().find(|(_, open)| !open.has_asked);
        let number = silent.or_else(|| candidates().next()).map(|(number, _)| *number);
        if let Some(open) = number.and_then(|number| self.open.remove(&number)) {
            open.task.abort();
        }
    }
}

impl Place {
    /// Records that the connection has sent a request.
    pub(super) fn has_asked(&self) {
        if let Some(open) = self.connections.lock().open.get_mut(&self.number) {
            open.has_asked = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.number);
    }
}

/// What counts as one source: with IPv6 a host has a whole /64 of addresses.
fn network_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => addr.into(),
        IpAddr::V6(addr) => {
            let [a, b, c, d, ..] = addr.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// A connection that is served until it is closed. Its place comes back.
    async fn connect(connections: &Connections, source: &str) -> Arc<Place> {
        let mut kept = None;
        connections.admit(source.parse().unwrap(), |place| {
            let place = Arc::new(place);
            kept = Some(Arc::clone(&place));
            tokio::spawn(pending::<()>()).abort_handle()
        });
        kept.unwrap()
    }

    fn sources(connections: &Connections) -> HashMap<String, usize> {
        let mut sources = HashMap::new();
        for open in connections.lock().open.values() {
            *sources.entry(open.source.to_string()).or_default() += 1;
        }
        sources
    }

    #[tokio::test]
    async fn source_has_its_share_and_its_oldest_silent_connection_goes() {
        let connections = Connections::new(64);
        let first = connect(&connections, "192.0.2.1").await;
        first.has_asked();
        let mut places = Vec::new();
        for _ in 0..10 {
            places.push(connect(&connections, "192.0.2.1").await);
        }
        let open: Vec<u64> = connections.lock().open.keys().copied().collect();
        assert_eq!(open, [1, 9, 10, 11], "one that has asked stays");
        drop(first);
        assert_eq!(connections.lock().open.len(), 3);
    }

    #[tokio::test]
    async fn full_house_takes_from_the_source_with_the_most() {
        let connections = Connections::new(64);
        let mut places = vec![connect(&connections, "192.0.2.9").await];
        for number in 0..100 {
            let source = format!("192.0.2.{}", 10 + number % 5);
            places.push(connect(&connections, &source).await);
        }
        let sources = sources(&connections);
        assert_eq!(sources.values().sum::<usize>(), 16);
        assert_eq!(sources.get("192.0.2.9"), Some(&1), "{sources:?}");
        connections.close_one();
        assert_eq!(connections.lock().open.len(), 15);
    }

    #[tokio::test]
    async fn addresses_of_one_host_are_one_source() {
        let connections = Connections::new(64);
        for addr in ["2001:db8::1", "2001:db8::2:1", "::ffff:192.0.2.1", "192.0.2.1"] {
            std::mem::forget(connect(&connections, addr).await);
        }
        let sources = sources(&connections);
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert_eq!(sources.get("192.0.2.1"), Some(&2));
    }

    #[tokio::test]
    async fn few_descriptors_are_few_connections() {
        for (descriptors, max) in [(0, 4), (100, 25), (1 << 20, 256)] {
            assert_eq!(Connections::new(descriptors).lock().max, max);
        }
    }
}
