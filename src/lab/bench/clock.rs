//! How far a run is, and how long it will still take.

use std::time::{Duration, Instant};

use crate::lab::progress::step;

/// Counts done steps against those to come.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    total: Duration,
    done: Duration,
}

impl Clock {
    /// A run of steps that should take `total` together.
    pub(super) fn start(total: Duration) -> Self {
        Self { start: Instant::now(), total, done: Duration::ZERO }
    }

    /// Tells of a step that was to take `planned` and is done.
    pub(super) fn done(&mut self, planned: Duration, what: &str) {
        self.done += planned;
        let left = left(self.total, self.done, self.start.elapsed());
        step(&format!("{:>6} left · {what}", minutes(left)));
    }
}

/// Time that is left when `done` of `total` took `elapsed`. At first the plan is believed, in the
/// end what was seen.
fn left(total: Duration, done: Duration, elapsed: Duration) -> Duration {
    if total.is_zero() || done >= total {
        return Duration::ZERO;
    }
    let share = done.as_secs_f64() / total.as_secs_f64();
    let planned = total.as_secs_f64() * (1.0 - share);
    let seen = if share > 0.0 { elapsed.as_secs_f64() / share * (1.0 - share) } else { planned };
    Duration::from_secs_f64(planned * (1.0 - share) + seen * share)
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_comes_to_believe_what_it_sees() {
        let seconds = Duration::from_secs;
        let left = |done, elapsed| left(seconds(100), seconds(done), seconds(elapsed));
        assert_eq!(left(0, 3), seconds(100));
        assert_eq!(left(50, 50), seconds(50));
        assert_eq!(left(50, 100), seconds(75));
        assert!(left(90, 180) > seconds(18));
        assert_eq!(left(100, 250), seconds(0));
    }

    #[test]
    fn minutes_have_two_digits_of_seconds() {
        assert_eq!(minutes(Duration::from_secs(65)), "1:05");
    }
}
