//! The content of a [`MemoryRegistry`](super::MemoryRegistry): its history, and what expires.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroI64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Entry, Fault, read_entry};
use crate::control::subnet::kv::registry::history::{Cas, History};
use crate::control::subnet::kv::registry::{Read, StoreId, TtlLease, key_of};

#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) config: Option<String>,
    pub(super) history: History,
    /// Counts how often all watches were ended.
    pub(super) generation: u64,
    /// The watches of this count stay silent.
    pub(super) muted: Option<u64>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) refuses_writes: bool,
    /// When each expires, on this store's clock.
    ttl_leases: BTreeMap<NonZeroI64, Duration>,
    last_ttl_lease: i64,
    clock: Duration,
}

/// A name that no other store of this process has.
fn new_id() -> StoreId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    StoreId(format!("memory store {}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            config: None,
            history: History::of(new_id()),
            generation: 0,
            muted: None,
            faults: VecDeque::new(),
            refuses_writes: false,
            ttl_leases: BTreeMap::new(),
            last_ttl_lease: 0,
            clock: Duration::ZERO,
        }
    }

    /// Takes over what `backup` held. Time does not go back.
    pub(super) fn restore(&mut self, backup: Self) {
        let Self { config, history, ttl_leases, last_ttl_lease, .. } = backup;
        let history = history.in_store(self.history.store().clone());
        let (generation, faults) = (self.generation + 1, std::mem::take(&mut self.faults));
        let (muted, clock) = (self.muted, self.clock);
        *self = Self {
            config,
            history,
            generation,
            muted,
            faults,
            refuses_writes: false,
            ttl_leases,
            last_ttl_lease,
            clock,
        };
    }

    pub(super) fn change_identity(&mut self) {
        self.history = self.history.clone().in_store(new_id());
        self.generation += 1;
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8], ttl_lease: Option<TtlLease>) {
        self.history.put(key, ttl_lease, |entry| read_entry(entry, value));
    }

    /// Whether it was written.
    pub(super) fn put_if(&mut self, expected: Cas, key: &str, value: &[u8], ttl: Duration) -> bool {
        if !self.history.is(expected, key) {
            return false;
        }
        let ttl_lease = self.grant(ttl);
        self.put(key, value, ttl_lease);
        true
    }

    /// Whether it was written. Keeps the expiry's identity if it still exists; a reservation gets
    /// none.
    pub(super) fn renew(&mut self, seen: &Entry, value: &[u8], ttl: Duration) -> bool {
        let expected = Cas::LastWritten(seen.revision);
        if !self.history.is(expected, &seen.key) {
            return false;
        }
        match seen.ttl_lease {
            Some(TtlLease(id)) if !self.ttl_leases.contains_key(&id) => {
                return self.put_if(expected, &seen.key, value, ttl);
            }
            Some(TtlLease(id)) => drop(self.ttl_leases.insert(id, self.clock + ttl)),
            None => {}
        }
        self.put(&seen.key, value, seen.ttl_lease);
        true
    }

    /// Whether it was written. Its expiry stays what it is.
    pub(super) fn announce(&mut self, seen: &Entry, value: &[u8]) -> bool {
        let same = self.history.is(Cas::LastWritten(seen.revision), &seen.key);
        if same {
            self.put(&seen.key, value, seen.ttl_lease);
        }
        same
    }

    /// Lets go of an expiry that no entry is bound to.
    pub(super) fn release(&mut self, ttl_lease: TtlLease) {
        let is_bound = |entry: &Read| {
            entry.as_ref().is_ok_and(|lease| lease.entry.ttl_lease == Some(ttl_lease))
        };
        if !self.history.entries().any(is_bound) {
            self.ttl_leases.remove(&ttl_lease.0);
        }
    }

    pub(super) fn delete_if(&mut self, seen: &Entry) -> bool {
        let same = self.history.is(Cas::LastWritten(seen.revision), &seen.key);
        if same {
            self.history.delete(&seen.key);
        }
        same
    }

    pub(super) fn time_left(&self, entry: &Entry) -> Option<Duration> {
        let TtlLease(id) = entry.ttl_lease?;
        Some(self.ttl_leases.get(&id)?.saturating_sub(self.clock))
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.clock += time;
        let now = self.clock;
        let (expired, live) = self.ttl_leases.iter().partition(|(_, at)| **at <= now);
        self.ttl_leases = live;
        let expired: BTreeMap<NonZeroI64, Duration> = expired;
        let is_dead = |ttl_lease: Option<TtlLease>| {
            ttl_lease.is_some_and(|TtlLease(id)| expired.contains_key(&id))
        };
        let dead = self
            .history
            .entries()
            .filter(|entry| is_dead(entry.as_ref().map_or(None, |lease| lease.entry.ttl_lease)));
        for key in dead.map(|entry| key_of(entry).to_owned()).collect::<Vec<String>>() {
            self.history.delete(&key);
        }
    }

    fn grant(&mut self, ttl: Duration) -> Option<TtlLease> {
        self.last_ttl_lease += 1;
        let id = NonZeroI64::new(self.last_ttl_lease)?;
        self.ttl_leases.insert(id, self.clock + ttl);
        Some(TtlLease(id))
    }
}
