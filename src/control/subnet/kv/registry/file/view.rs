//! [`View`]: what this process has seen of the file, as a history.

use std::collections::BTreeMap;
use std::num::NonZeroI64;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::value::RawValue;

use super::document::{Document, expires};
use crate::control::subnet::kv::registry::history::History;
use crate::control::subnet::kv::registry::{Malformed, Read, StoreId, TtlLease, read_entry};

/// Changes remembered for watches. One that is further behind lists again.
const MAX_CHANGES: usize = 10_000;

/// The file's entries as they were last seen, and how they came to be.
///
/// Nobody who edits a file counts its revisions. So each process counts its own: whatever differs
/// from what it saw last is a change. Of two edits between two looks it sees the outcome.
#[derive(Debug)]
pub(super) struct View {
    pub(super) history: History,
    /// What the entries in `history` say. How it is laid out is nobody's business.
    seen: BTreeMap<String, Value>,
    /// When the first of them expires.
    next_expiry: Option<SystemTime>,
    last_ttl_lease: i64,
}

/// An entry that this process has just written itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) key: &'a str,
    /// The expiry it was bound to before, if it was renewed.
    pub(super) ttl_lease: Option<TtlLease>,
}

impl View {
    pub(super) fn of(store: StoreId) -> Self {
        let history = History::of(store);
        Self { history, seen: BTreeMap::new(), next_expiry: None, last_ttl_lease: 0 }
    }

    pub(super) const fn next_expiry(&self) -> Option<SystemTime> {
        self.next_expiry
    }

    /// Takes over the file's state at the time `now`. An entry that was `written` counts as
    /// changed even if its text is the same.
    pub(super) fn observe(
        &mut self,
        document: &Document,
        now: SystemTime,
        written: Option<Written<'_>>,
    ) {
        let mut live = document.entries();
        live.retain(|_, raw| !is_expired(raw, now));
        let is_gone = |key: &&String| !live.contains_key(key.as_str());
        let gone: Vec<String> = self.seen.keys().filter(is_gone).cloned().collect();
        for key in gone {
            self.seen.remove(&key);
            self.history.delete(&key);
        }
        for (&key, &raw) in &live {
            let written = written.filter(|written| written.key == key);
            let says = content(raw);
            if written.is_some() || self.seen.get(key) != Some(&says) {
                self.seen.insert(key.to_owned(), says);
                self.put(key, raw, written.and_then(|written| written.ttl_lease));
            }
        }
        self.history.keep_last(MAX_CHANGES);
        let expiries = live.values().filter_map(|raw| expires(raw).ok().flatten());
        self.next_expiry = expiries.min();
    }

    fn put(&mut self, key: &str, raw: &RawValue, ttl_lease: Option<TtlLease>) {
        let (ttl_lease, fault) = match expires(raw) {
            Ok(Some(_)) => (ttl_lease.or_else(|| self.new_ttl_lease()), None),
            Ok(None) => (None, None),
            Err(reason) => (None, Some(reason)),
        };
        self.history.put(key, ttl_lease, |entry| {
            match (read_entry(entry, raw.get().as_bytes()), fault) {
                (Ok(lease), Some(reason)) => {
                    let value = raw.get().as_bytes();
                    Err(Malformed::new(lease.entry, reason, value))
                }
                (read, _) => read,
            }
        });
    }

    /// A name for an expiry that nobody here knows yet.
    fn new_ttl_lease(&mut self) -> Option<TtlLease> {
        self.last_ttl_lease += 1;
        NonZeroI64::new(self.last_ttl_lease).map(TtlLease)
    }

    pub(super) fn read(&self, key: &str) -> Option<Read> {
        self.history.read(key).cloned()
    }
}

/// What an entry says; its text, if it is nested too deep to say anything.
fn content(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into())
}

/// Whether an entry no longer counts. One without an expiry that can be read counts for ever.
pub(super) fn is_expired(raw: &RawValue, now: SystemTime) -> bool {
    matches!(expires(raw), Ok(Some(expires)) if expires <= now)
}
