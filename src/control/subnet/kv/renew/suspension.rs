//! [`Suspension`]: the time for which this machine slept, which no `Instant` counts.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Below this it is the time between two readings of clocks.
const LEAST: Duration = Duration::from_secs(1);

/// Tells how long the machine slept since it was last asked.
#[derive(Debug)]
pub(super) struct Suspension {
    seen: Duration,
}

impl Suspension {
    pub(super) fn new() -> Self {
        Self { seen: total() }
    }

    /// The time slept since the last call that gave some.
    pub(super) fn take(&mut self) -> Option<Duration> {
        self.compare(total())
    }

    fn compare(&mut self, now: Duration) -> Option<Duration> {
        let slept = now.checked_sub(self.seen).filter(|slept| *slept >= LEAST)?;
        self.seen = now;
        Some(slept)
    }
}

/// The time slept since boot: what `CLOCK_BOOTTIME` counts beyond `CLOCK_MONOTONIC`
/// (clock_gettime(2)). A kernel without the first does not sleep.
fn total() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from);
    match (read(ClockId::CLOCK_MONOTONIC), read(ClockId::CLOCK_BOOTTIME)) {
        (Ok(awake), Ok(all)) => all.saturating_sub(awake),
        (Err(_), _) | (_, Err(_)) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_told_once_and_what_the_clocks_differ_by_is_none() {
        let mut suspension = Suspension::new();
        let (start, hour) = (suspension.seen, Duration::from_secs(60 * 60));
        assert_eq!(suspension.take(), None, "we are awake");
        assert_eq!(suspension.compare(start + LEAST / 2), None);
        assert_eq!(suspension.compare(start + hour), Some(hour));
        assert_eq!(suspension.compare(start + hour + LEAST / 2), None);
        assert_eq!(suspension.compare(start + hour + LEAST), Some(LEAST));
        assert_eq!(suspension.compare(start), None);
    }
}
