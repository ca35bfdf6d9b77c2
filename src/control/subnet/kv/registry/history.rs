//! [`History`]: entries, and the changes that made them what they are.
//!
//! What a registry in this process needs to keep its promises about revisions, lists and watches.
//! Expiry and storage are the business of its owner.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Batch, Change, Entry, Read, RegistryError, Revision, Scope, Snapshot, StoreId, TtlLease, key_of,
};

/// Entries at their latest revision, and the changes since the oldest that is remembered.
#[derive(Debug, Clone)]
pub(super) struct History {
    store: StoreId,
    revision: Revision,
    /// The oldest revision whose change is remembered.
    compacted: Revision,
    entries: BTreeMap<String, Read>,
    changes: VecDeque<(Revision, Change)>,
}

/// What an entry must be for a write to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cas {
    Absent,
    LastWritten(Revision),
}

impl History {
    /// The history of `store`, in which nothing has happened yet.
    pub(super) fn of(store: StoreId) -> Self {
        Self {
            store,
            revision: Revision(1), // as etcd, which begins at 1
            compacted: Revision(0),
            entries: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// The same history, which begins with `store`.
    pub(super) fn in_store(self, store: StoreId) -> Self {
        Self { store, ..self }
    }

    pub(super) const fn store(&self) -> &StoreId {
        &self.store
    }

    pub(super) fn read(&self, key: &str) -> Option<&Read> {
        self.entries.get(key)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Read> {
        self.entries.values()
    }

    pub(super) fn list(&self, scope: &Scope) -> Snapshot {
        let in_scope = self.entries.iter().filter(|(key, _)| scope.contains(key));
        Snapshot {
            store: self.store.clone(),
            revision: self.revision,
            entries: in_scope.map(|(_, e)| e.clone()).collect(),
        }
    }

    /// The changes to `scope` after `position`, if there are any.
    ///
    /// # Errors
    /// [`RegistryError::HistoryGone`] when they are not remembered, [`RegistryError::SetBack`]
    /// when `position` never was.
    pub(super) fn after(
        &self,
        position: Revision,
        scope: &Scope,
    ) -> Result<Option<Batch>, RegistryError> {
        if position > self.revision {
            return Err(RegistryError::SetBack { after: position });
        }
        if position.0.saturating_add(1) < self.compacted.0 {
            return Err(RegistryError::HistoryGone { after: position });
        }
        let start = self.changes.partition_point(|(revision, _)| *revision <= position);
        let changes = self.changes.range(start..).map(|(_, change)| change);
        let changes: Vec<Change> = changes
            .filter(|change| change.key().is_none_or(|key| scope.contains(key)))
            .cloned()
            .collect();
        Ok((!changes.is_empty()).then_some(Batch { revision: self.revision, changes }))
    }

    pub(super) fn is(&self, expected: Cas, key: &str) -> bool {
        match (expected, self.entries.get(key)) {
            (Cas::Absent, found) => found.is_none(),
            (Cas::LastWritten(seen), Some(Ok(lease))) => lease.entry.revision == seen,
            (Cas::LastWritten(seen), Some(Err(malformed))) => malformed.revision == seen,
            (Cas::LastWritten(_), None) => false,
        }
    }

    /// Writes what `read` makes of the new entry.
    pub(super) fn put(
        &mut self,
        key: &str,
        ttl_lease: Option<TtlLease>,
        read: impl FnOnce(Entry) -> Read,
    ) {
        self.revision.0 += 1;
        let entry = read(Entry { key: key.to_owned(), revision: self.revision, ttl_lease });
        self.entries.insert(key.to_owned(), entry.clone());
        self.changes.push_back((self.revision, Change::Put(entry)));
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.revision.0 += 1;
            let change = Change::Delete { key: key.to_owned(), revision: self.revision };
            self.changes.push_back((self.revision, change));
        }
    }

    /// Forgets all changes but the last `num`.
    pub(super) fn keep_last(&mut self, num: usize) {
        let num_forgotten = self.changes.len().saturating_sub(num);
        if num_forgotten > 0 {
            self.changes.drain(..num_forgotten);
            self.compacted = self.changes.front().map_or(self.revision, |(revision, _)| *revision);
        }
    }
}

impl Change {
    /// The key of the entry that changed.
    fn key(&self) -> Option<&str> {
        match self {
            Self::Put(entry) => Some(key_of(entry)),
            Self::Delete { key, .. } => Some(key),
            Self::Cleared { .. } | Self::Foreign => None,
        }
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
