//! [`MemoryRegistry`]: a registry in this process, for tests and trials without etcd.
//!
//! It keeps the same promises as etcd: revisions, conditional writes, ordered watches, expiry,
//! compaction. Its clock does not move until [`MemoryRegistry::advance`] moves it, and calls fail
//! when a test asks for it.

mod store;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::store::Store;
use super::history::Cas;
use super::{
    Batch, Entry, LEASE_TTL, LeaseWatch, Registry, RegistryError, Revision, Scope, Snapshot,
    StoreId, Stored, TtlLease, Write, read_entry,
};
use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs, print_key};

/// A registry in this process. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// Wakes the watches after every write.
    changed: Notify,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing reached the registry.
    NotAsked,
    /// The registry did as it was asked, but its answer was lost.
    NotAnswered,
}

/// A watch of a [`MemoryRegistry`].
#[derive(Debug)]
pub struct MemoryWatch {
    shared: Arc<Shared>,
    scope: Scope,
    store: StoreId,
    position: Revision,
    generation: u64,
}

/// What a [`MemoryRegistry`] held at a time.
#[derive(Debug, Clone)]
pub struct Backup(Store);

impl MemoryRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        let store = Mutex::new(Store::new());
        Self { shared: Arc::new(Shared { store, changed: Notify::new() }) }
    }

    /// Writes the network config, as the operator does.
    pub fn set_config(&self, text: &str) {
        self.write(|store| store.config = Some(text.to_owned()));
    }

    /// Deletes the network config, as the operator does.
    pub fn remove_config(&self) {
        self.write(|store| store.config = None);
    }

    /// Writes any entry without an expiry, as the operator does: a reservation, or rubbish.
    pub fn put(&self, key: &str, value: &str) {
        self.write(|store| store.put(key, value.as_bytes(), None));
    }

    /// Deletes an entry, as the operator does.
    pub fn remove(&self, key: &str) {
        self.write(|store| store.history.delete(key));
    }

    /// Moves the clock on; what expires until then is deleted.
    pub fn advance(&self, time: Duration) {
        self.write(|store| store.advance(time));
    }

    /// Forgets the history up to now: a watch that is behind has to list again.
    pub fn compact(&self) {
        self.write(|store| store.history.keep_last(1));
    }

    /// Ends every watch, as the loss of a connection does.
    pub fn end_watches(&self) {
        self.write(|store| store.generation += 1);
    }

    /// Everything there is now.
    pub fn backup(&self) -> Backup {
        Backup(self.shared.lock().clone())
    }

    /// Puts everything back to where it was, as the operator does who restores a backup. That
    /// ends every watch.
    pub fn restore(&self, Backup(backup): &Backup) {
        self.write(|store| store.restore(backup.clone()));
    }

    /// From now on the watches that there are stay silent for ever, as when a connection is gone
    /// and nobody says so.
    pub fn mute_watches(&self) {
        self.write(|store| {
            store.muted = Some(store.generation);
            store.generation += 1;
        });
    }

    /// From now on this is another registry, with the same content.
    pub fn change_identity(&self) {
        self.write(Store::change_identity);
    }

    /// Makes the next `num` calls fail.
    pub fn fail_next(&self, num: usize, fault: Fault) {
        self.write(|store| store.faults.extend(std::iter::repeat_n(fault, num)));
    }

    /// Refuses all writes of nodes, as an etcd that is out of space does, or takes them again.
    pub fn refuse_writes(&self, refuses: bool) {
        self.write(|store| store.refuses_writes = refuses);
    }

    /// Makes all calls succeed again.
    pub fn heal(&self) {
        self.write(|store| store.faults.clear());
    }

    /// A watch that is set up without a call that might fail.
    pub(crate) fn watch_now(&self, scope: &Scope, after: Revision) -> MemoryWatch {
        let (generation, store) = {
            let store = self.shared.lock();
            (store.generation, store.history.store().clone())
        };
        let shared = Arc::clone(&self.shared);
        MemoryWatch { shared, scope: scope.clone(), store, position: after, generation }
    }

    fn write<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let answer = work(&mut self.shared.lock());
        self.shared.changed.notify_waiters();
        answer
    }

    fn check_writable(&self, operation: &'static str) -> Result<(), RegistryError> {
        match self.shared.lock().refuses_writes {
            true => Err(RegistryError::Call { operation, reason: "writes are refused".to_owned() }),
            false => Ok(()),
        }
    }

    /// One call: gives other tasks a turn, as a real one would, and fails when a test asks for it.
    async fn call<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Store) -> T,
    ) -> Result<T, RegistryError> {
        let failed = |reason: &str| RegistryError::Call { operation, reason: reason.to_owned() };
        tokio::task::yield_now().await;
        let fault = self.shared.lock().faults.pop_front();
        if fault == Some(Fault::NotAsked) {
            return Err(failed("not asked"));
        }
        let answer = self.write(work);
        tokio::task::yield_now().await;
        if fault == Some(Fault::NotAnswered) {
            return Err(failed("not answered"));
        }
        Ok(answer)
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for MemoryRegistry {
    type Watch = MemoryWatch;

    fn config_name(&self) -> String {
        "network config in memory".to_owned()
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        self.call("read network config", |store| store.config.clone()).await
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        self.call("ask for the identity", |store| store.history.store().clone()).await
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        self.call("list leases", |store| store.history.list(scope)).await
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<MemoryWatch, RegistryError> {
        self.call("watch leases", |_| ()).await?;
        Ok(self.watch_now(scope, after))
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Write, RegistryError> {
        self.check_writable("create lease")?;
        self.call("create lease", |store| {
            let key = print_key(subnets);
            let written = store.put_if(Cas::Absent, &key, attrs.to_json().as_bytes(), LEASE_TTL);
            outcome(store, &key, written)
        })
        .await
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        self.check_writable("renew lease")?;
        self.call("renew lease", |store| {
            let key = &lease.entry.key;
            let written = store.renew(&lease.entry, attrs.to_json().as_bytes(), LEASE_TTL);
            outcome(store, key, written)
        })
        .await
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        self.check_writable("announce lease")?;
        self.call("announce lease", |store| {
            let value = lease.attrs.to_json();
            let written = store.announce(&lease.entry, value.as_bytes());
            match outcome(store, &lease.entry.key, written) {
                Write::Done(now) => {
                    Write::Done(now.map(|it| Lease { expires: lease.expires, ..it }))
                }
                Write::Refused(found) => Write::Refused(found),
            }
        })
        .await
    }

    async fn release(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        self.call("release expiry", |store| store.release(ttl_lease)).await
    }

    async fn time_left(&self, lease: &Stored<Lease>) -> Option<Duration> {
        self.call("read expiry", |store| store.time_left(&lease.entry)).await.ok().flatten()
    }

    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        self.check_writable("delete lease")?;
        self.call("delete lease", |store| store.delete_if(&lease.entry)).await
    }
}

fn outcome(store: &Store, key: &str, is_written: bool) -> Write {
    match store.history.read(key) {
        Some(Ok(lease)) if is_written => {
            let expires = lease.entry.ttl_lease.map(|_| Instant::now() + LEASE_TTL);
            Write::Done(lease.clone().map(|it| Lease { expires, ..it }))
        }
        found => Write::Refused(found.cloned()),
    }
}

impl LeaseWatch for MemoryWatch {
    fn store(&self) -> &StoreId {
        &self.store
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut changed = pin!(shared.changed.notified());
            // Whatever is written from here on is noticed.
            changed.as_mut().enable();
            if let Some(batch) = self.pending()? {
                self.position = batch.revision;
                return Ok(batch);
            }
            changed.await;
        }
    }
}

impl MemoryWatch {
    /// How far it is.
    #[cfg(test)]
    pub(crate) const fn position(&self) -> Revision {
        self.position
    }

    fn pending(&self) -> Result<Option<Batch>, RegistryError> {
        let store = self.shared.lock();
        if store.muted == Some(self.generation) {
            return Ok(None);
        }
        if store.generation != self.generation {
            return Err(RegistryError::WatchEnded { reason: "connection lost".to_owned() });
        }
        store.history.after(self.position, &self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subnet::kv::registry::conformance;
    use crate::control::subnet::kv::registry::conformance::Rig;

    impl Rig for MemoryRegistry {
        type Registry = Self;

        fn registry(&self) -> &Self {
            self
        }

        async fn set_config(&self, text: &str) {
            Self::set_config(self, text);
        }

        async fn put(&self, key: &str, value: &str) {
            Self::put(self, key, value);
        }

        async fn remove(&self, key: &str) {
            Self::remove(self, key);
        }

        async fn expire(&self, _: &Stored<Lease>) {
            self.advance(LEASE_TTL);
        }

        async fn compact(&self) {
            Self::compact(self);
        }
    }

    #[tokio::test]
    async fn keeps_the_promises_of_a_registry() {
        conformance::check(&MemoryRegistry::new()).await;
    }

    #[tokio::test]
    async fn lost_answers_are_not_lost_writes() {
        let registry = MemoryRegistry::new();
        registry.fail_next(1, Fault::NotAnswered);
        let attrs = LeaseAttrs::udp([192, 0, 2, 1].into());
        let subnet = "10.1.1.0/24".parse().unwrap();
        assert!(registry.create(subnet, &attrs).await.is_err());
        assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 1);
    }
}
