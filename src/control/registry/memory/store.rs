//! The content of a [`MemoryRegistry`](super::MemoryRegistry) and its history.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroI64;
use std::time::Duration;

use super::{Entry, Fault, Revision, Scope, Snapshot, read_entry};
use crate::control::registry::{Change, Read, TtlLease};

#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: Option<String>,
    pub(super) revision: Revision,
    /// The oldest revision whose history is kept.
    pub(super) compacted: Revision,
    /// Counts how often all watches were ended.
    pub(super) generation: u64,
    pub(super) faults: VecDeque<Fault>,
    entries: BTreeMap<String, Stored>,
    /// When each expires, on this store's clock.
    ttl_leases: BTreeMap<NonZeroI64, Duration>,
    last_ttl_lease: i64,
    clock: Duration,
    history: Vec<(Revision, String, Option<Stored>)>,
}

#[derive(Debug, Clone)]
struct Stored {
    value: Vec<u8>,
    revision: Revision,
    ttl_lease: Option<TtlLease>,
}

/// What an entry must be for a write to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cas {
    Absent,
    LastWritten(Revision),
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            config: None,
            revision: Revision(1), // as etcd, which begins at 1
            compacted: Revision(0),
            generation: 0,
            faults: VecDeque::new(),
            entries: BTreeMap::new(),
            ttl_leases: BTreeMap::new(),
            last_ttl_lease: 0,
            clock: Duration::ZERO,
            history: Vec::new(),
        }
    }

    pub(super) fn read(&self, key: &str) -> Option<Read> {
        self.entries.get(key).map(|stored| stored.read(key))
    }

    pub(super) fn list(&self, scope: &Scope) -> Snapshot {
        let in_scope = self.entries.iter().filter(|(key, _)| scope.contains(key));
        let entries = in_scope.map(|(key, stored)| stored.read(key)).collect();
        Snapshot { revision: self.revision, entries }
    }

    pub(super) fn changes_after(&self, after: Revision, scope: &Scope) -> Vec<Change> {
        let start = self.history.partition_point(|(revision, _, _)| *revision <= after);
        self.history[start..]
            .iter()
            .filter(|(_, key, _)| scope.contains(key))
            .map(|(revision, key, stored)| match stored {
                Some(stored) => Change::Put(stored.read(key)),
                None => Change::Delete { key: key.clone(), revision: *revision },
            })
            .collect()
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8], ttl_lease: Option<TtlLease>) -> Entry {
        self.revision.0 += 1;
        let stored = Stored { value: value.to_vec(), revision: self.revision, ttl_lease };
        self.entries.insert(key.to_owned(), stored.clone());
        self.history.push((self.revision, key.to_owned(), Some(stored)));
        Entry { key: key.to_owned(), revision: self.revision, ttl_lease }
    }

    pub(super) fn put_if(
        &mut self,
        expected: Cas,
        key: &str,
        value: &[u8],
        ttl: Duration,
    ) -> Option<Entry> {
        if !self.is(expected, key) {
            return None;
        }
        let ttl_lease = self.grant(ttl);
        Some(self.put(key, value, ttl_lease))
    }

    /// Keeps the expiry's identity if it still exists; a reservation gets none.
    pub(super) fn renew(&mut self, seen: &Entry, value: &[u8], ttl: Duration) -> Option<Entry> {
        let expected = Cas::LastWritten(seen.revision);
        let Some(TtlLease(id)) = seen.ttl_lease else {
            return self.is(expected, &seen.key).then(|| self.put(&seen.key, value, None));
        };
        if !self.ttl_leases.contains_key(&id) {
            return self.put_if(expected, &seen.key, value, ttl);
        }
        if !self.is(expected, &seen.key) {
            return None;
        }
        self.ttl_leases.insert(id, self.clock + ttl);
        Some(self.put(&seen.key, value, seen.ttl_lease))
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.revision.0 += 1;
            self.history.push((self.revision, key.to_owned(), None));
        }
    }

    pub(super) fn delete_if(&mut self, seen: &Entry) -> bool {
        let same = self.is(Cas::LastWritten(seen.revision), &seen.key);
        if same {
            self.delete(&seen.key);
        }
        same
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.clock += time;
        let now = self.clock;
        let (expired, live) = self.ttl_leases.iter().partition(|(_, at)| **at <= now);
        self.ttl_leases = live;
        let expired: BTreeMap<NonZeroI64, Duration> = expired;
        let bound =
            |stored: &Stored| stored.ttl_lease.is_some_and(|id| expired.contains_key(&id.0));
        let dead = self.entries.iter().filter(|(_, stored)| bound(stored));
        for key in dead.map(|(key, _)| key.clone()).collect::<Vec<String>>() {
            self.delete(&key);
        }
    }

    fn grant(&mut self, ttl: Duration) -> Option<TtlLease> {
        self.last_ttl_lease += 1;
        let id = NonZeroI64::new(self.last_ttl_lease)?;
        self.ttl_leases.insert(id, self.clock + ttl);
        Some(TtlLease(id))
    }

    fn is(&self, expected: Cas, key: &str) -> bool {
        match expected {
            Cas::Absent => !self.entries.contains_key(key),
            Cas::LastWritten(revision) => {
                self.entries.get(key).is_some_and(|stored| stored.revision == revision)
            }
        }
    }
}

impl Stored {
    fn read(&self, key: &str) -> Read {
        let entry =
            Entry { key: key.to_owned(), revision: self.revision, ttl_lease: self.ttl_lease };
        read_entry(entry, &self.value)
    }
}

impl Scope {
    fn contains(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Key(only) => only == key,
        }
    }
}
