//! [`Backoff`]: how long to wait before trying again.

use std::time::Duration;

use rand::Rng;

use super::rng::rng;

/// Delays that double from `first` to `longest`, each shortened by up to half at random, so that
/// a thousand nodes that lost the same server do not come back to it as one.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The back-off of stock flannel's watch: 100 ms to 5 s (`pkg/subnet/etcd/registry.go`).
    pub(crate) const fn of_registry() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// How long to wait this time.
    pub(crate) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        delay.mul_f64(rng().random_range(0.5..=1.0))
    }

    /// After a success: starts over.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::of_registry();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let expected = Duration::from_millis(expected);
            let delay = backoff.delay();
            assert!((expected / 2..=expected).contains(&delay), "{delay:?} of {expected:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }
}
