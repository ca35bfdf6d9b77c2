//! [`BusyPoll`]: whether a worker with nothing to do polls again before it sleeps.
//!
//! Polling saves the cost of waking up if a packet comes soon. Where packets come at longer
//! intervals it only burns CPU time, so it pauses when it seldom succeeds. It pauses as well where
//! other threads want the core: to them a yield gives a whole time slice, while a thread that sleeps
//! gets the core at once when a packet wakes it (docs/adr/0036).

use std::time::{Duration, Instant};

/// Busy-poll attempts per trial.
const TRIAL: u32 = 256;

/// A trial succeeds if a packet came in at least one of this many attempts.
const WORTH: u32 = 8;

/// A yield that takes so long gave the core to a thread that used up its slice: the kernel's shortest
/// is 700 µs (`sysctl_sched_base_slice` in kernel/sched/fair.c). Threads that answer each other on one
/// core return it within 100 µs.
const LONG_YIELD: Duration = Duration::from_micros(500);

/// How long the worker sleeps at once after a trial that failed or a long yield.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides after each turn without work whether to poll again or to sleep.
///
/// An *attempt* is a row of such turns. It ends with a packet or when the window is over.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// Longest attempt; zero turns busy polling off.
    window: Duration,
    /// When the worker last had work or woke up.
    active_at: Instant,
    is_polling: bool,
    /// When the worker last yielded, if it is polling.
    yielded_at: Instant,
    /// Attempts of this trial, and how many ended with a packet.
    num_attempts: u32,
    num_hits: u32,
    paused_until: Instant,
}

impl BusyPoll {
    /// Starts with a trial at `now`.
    pub(super) const fn new(window: Duration, now: Instant) -> Self {
        Self {
            window,
            active_at: now,
            is_polling: false,
            yielded_at: now,
            num_attempts: 0,
            num_hits: 0,
            paused_until: now,
        }
    }

    /// Records that there was work at `now`.
    pub(super) fn worked(&mut self, now: Instant) {
        self.pause_after_long_yield(now);
        self.num_hits += u32::from(std::mem::take(&mut self.is_polling));
        self.active_at = now;
    }

    /// Records that the worker woke up at `now`.
    pub(super) const fn woke(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Whether to yield and poll again after a turn without work that began at `now`. If not, the
    /// worker should sleep.
    pub(super) fn should_continue(&mut self, now: Instant) -> bool {
        self.pause_after_long_yield(now);
        let is_over = now.duration_since(self.active_at) >= self.window;
        if is_over || now < self.paused_until {
            self.is_polling = false;
            return false;
        }
        if !self.is_polling {
            self.end_trial(now);
            self.is_polling = now >= self.paused_until;
            self.num_attempts += u32::from(self.is_polling);
        }
        self.yielded_at = now;
        self.is_polling
    }

    fn pause_after_long_yield(&mut self, now: Instant) {
        if self.is_polling && now.duration_since(self.yielded_at) >= LONG_YIELD {
            self.paused_until = now + PAUSE;
        }
    }

    /// Pauses if a trial is complete and had too few hits.
    fn end_trial(&mut self, now: Instant) {
        if self.num_attempts < TRIAL {
            return;
        }
        if self.num_hits < TRIAL / WORTH {
            self.paused_until = now + PAUSE;
        }
        (self.num_attempts, self.num_hits) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(50);
    const STEP: Duration = Duration::from_micros(10);

    /// How many turns poll within `time` if a packet comes every `interval`.
    fn num_polls(busy: &mut BusyPoll, start: Instant, time: Duration, interval: Duration) -> u32 {
        let (mut now, mut next, mut asleep, mut polls) = (start, start + interval, false, 0);
        while now < start + time {
            if now >= next {
                if std::mem::take(&mut asleep) {
                    busy.woke(now);
                }
                busy.worked(now);
                next = now + interval;
            } else if !asleep {
                asleep = !busy.should_continue(now);
                polls += u32::from(!asleep);
            }
            now += STEP;
        }
        polls
    }

    #[test]
    fn packets_that_come_soon_keep_the_worker_polling() {
        let start = Instant::now();
        let mut busy = BusyPoll::new(WINDOW, start);
        let polls = num_polls(&mut busy, start, Duration::from_secs(1), 4 * STEP);
        assert!(polls > 74_900, "{polls} of 100,000 steps, of which a fourth bring a packet");
    }

    #[test]
    fn packets_that_come_late_let_the_worker_sleep() {
        let start = Instant::now();
        let mut busy = BusyPoll::new(WINDOW, start);
        let millis = Duration::from_millis;
        let trial = num_polls(&mut busy, start, millis(26), 10 * STEP);
        assert!((4 * TRIAL..=5 * TRIAL).contains(&trial), "{trial}");
        let pause = num_polls(&mut busy, start + millis(26), millis(900), 10 * STEP);
        assert_eq!(pause, 0);
        let again = num_polls(&mut busy, start + millis(926), millis(1000), 10 * STEP);
        assert!((4 * TRIAL..=5 * TRIAL).contains(&again), "{again}");
    }

    #[test]
    fn pause_ends_when_packets_come_soon_again() {
        let start = Instant::now();
        let mut busy = BusyPoll::new(WINDOW, start);
        let second = Duration::from_secs(1);
        num_polls(&mut busy, start, second / 10, 10 * STEP);
        num_polls(&mut busy, start + second / 10, second * 19 / 10, 4 * STEP);
        let polls = num_polls(&mut busy, start + 2 * second, second, 4 * STEP);
        assert!(polls > 74_900, "{polls}");
    }

    #[test]
    fn core_that_others_want_makes_the_worker_sleep_for_a_while() {
        let start = Instant::now();
        for packet_came in [false, true] {
            let mut busy = BusyPoll::new(Duration::from_millis(10), start);
            assert!(busy.should_continue(start));
            let back = start + LONG_YIELD;
            if packet_came {
                busy.worked(back);
            }
            assert!(!busy.should_continue(back), "{packet_came}");
            for (later, polls) in [(PAUSE / 2, false), (PAUSE, true)] {
                busy.woke(back + later);
                assert_eq!(busy.should_continue(back + later), polls, "{packet_came} {later:?}");
            }
        }
        let mut busy = BusyPoll::new(WINDOW, start);
        assert!(busy.should_continue(start));
        busy.worked(start + LONG_YIELD / 2);
        assert!(busy.should_continue(start + LONG_YIELD / 2), "a short yield");
    }

    #[test]
    fn without_a_window_the_worker_never_polls() {
        let start = Instant::now();
        let mut busy = BusyPoll::new(Duration::ZERO, start);
        assert_eq!(num_polls(&mut busy, start, Duration::from_secs(1), STEP * 4), 0);
    }
}
