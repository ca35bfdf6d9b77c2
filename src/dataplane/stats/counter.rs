//! [`Counter`]: one number that one thread adds to.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread adds to and any thread reads. Adding needs no locked instruction,
/// only a store that cannot be torn.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the counter's own worker calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// Reads the count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds `n` to a counter whose only writer is the caller.
#[inline]
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
