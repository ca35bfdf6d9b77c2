//! When an offload that the kernel refused while running is tried again.
//!
//! What makes a kernel refuse may pass: a NIC that lost its checksum offload gets it back, a route
//! moves to another NIC, an IPsec policy goes away, and one odd packet is only one. A try costs one
//! refused system call, whose packets then go singly; so none of them is lost, and what it costs
//! vanishes if the tries are far enough apart.

use std::time::{Duration, Instant};

/// The first wait. It doubles with every try that fails.
pub const FIRST_WAIT: Duration = Duration::from_secs(10);
/// The longest wait: as long as a path is believed to be narrow (RFC 1191 §6.3).
pub const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The waits of one offload.
#[derive(Debug, Default)]
pub struct Fallback {
    /// The last wait, if there was one.
    wait: Option<Duration>,
    /// When the current wait ends, or the last one did.
    until: Option<Instant>,
    is_waiting: bool,
}

impl Fallback {
    /// The kernel refused the offload: a wait begins.
    pub fn begin(&mut self, now: Instant) {
        let wait = match (self.wait, self.until) {
            // After the last wait it worked for less long than that.
            (Some(wait), Some(until)) if now < until + wait => (2 * wait).min(LONGEST_WAIT),
            _ => FIRST_WAIT,
        };
        (self.wait, self.until, self.is_waiting) = (Some(wait), Some(now + wait), true);
    }

    /// Whether a wait ended: true once for each.
    #[inline]
    pub fn is_over(&mut self, now: Instant) -> bool {
        let is_over = self.is_waiting && self.until.is_some_and(|until| now >= until);
        if is_over {
            self.is_waiting = false;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_while_tries_fail() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert!(!fallback.is_over(now));
            fallback.begin(now);
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(!fallback.is_over(now), "{seconds}");
            now += Duration::from_millis(1);
            assert!(fallback.is_over(now), "{seconds}");
            assert!(!fallback.is_over(now), "once");
        }
    }

    #[test]
    fn waits_begin_anew_after_it_worked_for_long() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        for _ in 0..3 {
            fallback.begin(now);
            now += FIRST_WAIT;
            assert!(fallback.is_over(now));
            now += FIRST_WAIT;
        }
    }
}
