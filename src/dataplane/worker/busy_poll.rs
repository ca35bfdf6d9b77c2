//! [`Lookout`]: whether a worker with nothing to do looks again before it sleeps.
//!
//! Looking saves what waking up costs, if something comes soon. Where packets come at longer
//! intervals it would only warm the core, so it is given up for a while when it seldom pays.

use std::time::{Duration, Instant};

/// Times of looking after which it is judged whether they paid.
const TRIAL: u32 = 256;

/// They did if something came in one of so many.
const WORTH: u32 = 8;

/// How long a worker sleeps at once after a trial that did not pay.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for as long as it may pay.
#[derive(Debug)]
pub(super) struct Lookout {
    /// How long to look; zero for never.
    window: Duration,
    /// When something last came, or the worker woke up.
    active_at: Instant,
    is_looking: bool,
    /// Times it looked in this trial, and times that something came meanwhile.
    num_looks: u32,
    num_hits: u32,
    paused_until: Instant,
}

impl Lookout {
    /// Begins with a trial at `now`.
    pub(super) const fn new(window: Duration, now: Instant) -> Self {
        Self {
            window,
            active_at: now,
            is_looking: false,
            num_looks: 0,
            num_hits: 0,
            paused_until: now,
        }
    }

    /// Takes note that there was something to do at `now`.
    pub(super) fn active(&mut self, now: Instant) {
        self.num_hits += u32::from(std::mem::take(&mut self.is_looking));
        self.active_at = now;
    }

    /// Takes note that the worker woke up at `now`.
    pub(super) const fn woke(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Whether to look again, as there was nothing to do at `now`. Otherwise it is time to sleep.
    pub(super) fn looks_again(&mut self, now: Instant) -> bool {
        let is_over = now.duration_since(self.active_at) >= self.window;
        if is_over || now < self.paused_until {
            self.is_looking = false;
            return false;
        }
        if !self.is_looking {
            self.judge(now);
            self.is_looking = now >= self.paused_until;
            self.num_looks += u32::from(self.is_looking);
        }
        self.is_looking
    }

    fn judge(&mut self, now: Instant) {
        if self.num_looks < TRIAL {
            return;
        }
        if self.num_hits < TRIAL / WORTH {
            self.paused_until = now + PAUSE;
        }
        (self.num_looks, self.num_hits) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(50);
    const STEP: Duration = Duration::from_micros(10);

    /// How often a worker looks within `time` if something comes every `interval`.
    fn num_looks(lookout: &mut Lookout, start: Instant, time: Duration, interval: Duration) -> u32 {
        let (mut now, mut next, mut asleep, mut looks) = (start, start + interval, false, 0);
        while now < start + time {
            if now >= next {
                if std::mem::take(&mut asleep) {
                    lookout.woke(now);
                }
                lookout.active(now);
                next = now + interval;
            } else if !asleep {
                asleep = !lookout.looks_again(now);
                looks += u32::from(!asleep);
            }
            now += STEP;
        }
        looks
    }

    #[test]
    fn answers_that_come_soon_are_looked_for_without_end() {
        let start = Instant::now();
        let mut lookout = Lookout::new(WINDOW, start);
        let looks = num_looks(&mut lookout, start, Duration::from_secs(1), 4 * STEP);
        assert!(looks > 74_900, "{looks} of 100,000 steps, of which a fourth bring something");
    }

    #[test]
    fn packets_that_come_late_are_slept_for() {
        let start = Instant::now();
        let mut lookout = Lookout::new(WINDOW, start);
        let millis = Duration::from_millis;
        let trial = num_looks(&mut lookout, start, millis(26), 10 * STEP);
        assert!((4 * TRIAL..=5 * TRIAL).contains(&trial), "{trial}");
        let pause = num_looks(&mut lookout, start + millis(26), millis(900), 10 * STEP);
        assert_eq!(pause, 0);
        let again = num_looks(&mut lookout, start + millis(926), millis(1000), 10 * STEP);
        assert!((4 * TRIAL..=5 * TRIAL).contains(&again), "{again}");
    }

    #[test]
    fn pause_ends_when_answers_come_soon_again() {
        let start = Instant::now();
        let mut lookout = Lookout::new(WINDOW, start);
        let second = Duration::from_secs(1);
        num_looks(&mut lookout, start, second / 10, 10 * STEP);
        num_looks(&mut lookout, start + second / 10, second, 4 * STEP);
        let looks = num_looks(&mut lookout, start + 2 * second, second, 4 * STEP);
        assert!(looks > 74_900, "{looks}");
    }

    #[test]
    fn without_a_window_nothing_is_looked_for() {
        let start = Instant::now();
        let mut lookout = Lookout::new(Duration::ZERO, start);
        assert_eq!(num_looks(&mut lookout, start, Duration::from_secs(1), STEP * 4), 0);
    }
}
