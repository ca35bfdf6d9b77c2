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
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Resets to zero. Only the counter's own worker calls this.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Reads the count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
