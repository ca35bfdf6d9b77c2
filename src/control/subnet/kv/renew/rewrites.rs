//! [`Rewrites`]: how often we write over what others write to our entry.

use std::time::Duration;

use tokio::time::Instant;

use crate::control::util::backoff::Backoff;

/// What there is to write over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// An entry that names no owner.
    Ownerless,
    /// Something else about us, in our name. Its writer may write it again whenever we
    /// correct it: another node with our public IP, or a script.
    Different,
}

/// After so long a time without a correction the next one is made at once again. Longer than the
/// longest delay, or two nodes that correct each other would never slow down.
const QUIET: Duration = Duration::from_secs(30 * 60);

/// Least time between two writes over ownerless entries.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Limits both kinds.
#[derive(Debug)]
pub(super) struct Rewrites {
    backoff: Backoff,
    last_correction: Option<Instant>,
    not_before: Option<Instant>,
}

impl Rewrites {
    pub(super) const fn new() -> Self {
        // The first few corrections are the operator's trials, and not a quarrel.
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10 * 60));
        Self { backoff, last_correction: None, not_before: None }
    }

    /// When to write: now, which is then counted as done, or later.
    pub(super) fn next(&mut self, over: Over) -> Instant {
        let now = Instant::now();
        if let Some(later) = self.not_before.filter(|at| *at > now) {
            return later;
        }
        let pause = match over {
            Over::Ownerless => MIN_PAUSE,
            Over::Different => {
                if self.last_correction.is_none_or(|last| now - last > QUIET) {
                    self.backoff.reset();
                }
                self.last_correction = Some(now);
                self.backoff.delay()
            }
        };
        self.not_before = Some(now + pause);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn corrections_slow_down_until_it_was_quiet() {
        let mut rewrites = Rewrites::new();
        let start = Instant::now();
        let mut num = 0;
        while start.elapsed() < Duration::from_secs(12 * 60 * 60) {
            let at = rewrites.next(Over::Different);
            num += usize::from(at == Instant::now());
            tokio::time::sleep_until(at).await;
        }
        assert!((70..200).contains(&num), "{num} in 12 hours");
        tokio::time::advance(QUIET * 2).await;
        assert_eq!(rewrites.next(Over::Different), Instant::now());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(rewrites.next(Over::Different), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn ownerless_entries_are_written_over_once_a_second() {
        let mut rewrites = Rewrites::new();
        let start = Instant::now();
        assert_eq!(rewrites.next(Over::Ownerless), start);
        assert_eq!(rewrites.next(Over::Ownerless), start + MIN_PAUSE);
        tokio::time::advance(MIN_PAUSE).await;
        assert_eq!(rewrites.next(Over::Ownerless), Instant::now());
    }
}
