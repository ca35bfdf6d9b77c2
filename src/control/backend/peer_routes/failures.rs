//! [`Failures`]: changes that the kernel refused, and when each is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::entries::Key;
use crate::control::util::backoff::Backoff;

/// First and longest pause before a change that failed is tried again.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The changes that failed, each with a back-off of its own.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<Key, Failure>);

#[derive(Debug)]
struct Failure {
    retry_at: Instant,
    backoff: Backoff,
    reason: String,
}

impl Failures {
    /// The change of `key` failed for this reason.
    pub(super) fn insert(&mut self, key: Key, reason: String) {
        let before = self.0.remove(&key).map(|failure| failure.backoff);
        let mut backoff = before.unwrap_or(Backoff::new(RETRY.0, RETRY.1));
        let retry_at = Instant::now() + backoff.delay();
        self.0.insert(key, Failure { retry_at, backoff, reason });
    }

    /// The change of `key` was made.
    pub(super) fn remove(&mut self, key: Key) {
        self.0.remove(&key);
    }

    /// Forgets the changes that are not `needed` any more.
    pub(super) fn retain(&mut self, mut needed: impl FnMut(Key) -> bool) {
        self.0.retain(|key, _| needed(*key));
    }

    /// When the next one is tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.0.values().map(|failure| failure.retry_at).min()
    }

    /// Those whose pause is over.
    pub(super) fn due(&self) -> BTreeSet<Key> {
        let now = Instant::now();
        let due = self.0.iter().filter(|(_, failure)| failure.retry_at <= now);
        due.map(|(key, _)| *key).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Why the first of them failed.
    pub(super) fn first_reason(&self) -> Option<&str> {
        self.0.values().next().map(|failure| failure.reason.as_str())
    }
}
