//! [`OffloadBackoff`]: when to try an offload again that the kernel refused while running.
//!
//! The cause may be temporary: a NIC gets its checksum offload back, a route moves to another NIC,
//! an IPsec policy is removed; or one irregular packet was the only cause. A try costs one refused
//! system call, whose packets are then sent one by one. So no packet is lost, and at long intervals
//! the cost does not matter.

use std::time::{Duration, Instant};

/// The first wait. It doubles with every try that fails.
pub const FIRST_WAIT: Duration = Duration::from_secs(10);
/// The longest wait: as long as a path MTU is remembered (RFC 1191 §6.3).
pub const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The waits of one offload.
#[derive(Debug, Default)]
pub struct OffloadBackoff {
    /// Length of the current or last wait.
    wait: Option<Duration>,
    /// When the current wait ends, or the last one ended.
    until: Option<Instant>,
    is_waiting: bool,
}

impl OffloadBackoff {
    /// Starts a wait, because the kernel refused the offload.
    pub fn start(&mut self, now: Instant) {
        let wait = match (self.wait, self.until) {
            // After the last wait the offload worked for a shorter time than that wait.
            (Some(wait), Some(until)) if now < until + wait => (2 * wait).min(LONGEST_WAIT),
            _ => FIRST_WAIT,
        };
        (self.wait, self.until, self.is_waiting) = (Some(wait), Some(now + wait), true);
    }

    /// Whether a wait has ended: true once for each.
    #[inline]
    pub fn has_ended(&mut self, now: Instant) -> bool {
        let has_ended = self.is_waiting && self.until.is_some_and(|until| now >= until);
        if has_ended {
            self.is_waiting = false;
        }
        has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_while_tries_fail() {
        let (mut backoff, mut now) = (OffloadBackoff::default(), Instant::now());
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert!(!backoff.has_ended(now));
            backoff.start(now);
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(!backoff.has_ended(now), "{seconds}");
            now += Duration::from_millis(1);
            assert!(backoff.has_ended(now), "{seconds}");
            assert!(!backoff.has_ended(now), "once");
        }
    }

    #[test]
    fn first_wait_follows_after_it_worked_for_long() {
        let (mut backoff, mut now) = (OffloadBackoff::default(), Instant::now());
        for _ in 0..3 {
            backoff.start(now);
            now += FIRST_WAIT;
            assert!(backoff.has_ended(now));
            now += FIRST_WAIT;
        }
    }
}
