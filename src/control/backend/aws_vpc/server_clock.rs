//! [`ServerClock`]: the time by the clock of an API, which refuses signatures of another time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::control::util::time_text::duration;

/// How far our clock may be from the API's. AWS accepts signatures of the last five minutes.
const MAX_DIFFERENCE: Duration = Duration::from_secs(240);

/// The clock of an API.
#[derive(Debug)]
pub(super) struct ServerClock {
    api: &'static str,
    /// How many seconds it is ahead of ours, if that is too much for signatures.
    ahead: AtomicI64,
}

impl ServerClock {
    /// One that agrees with ours.
    pub(super) const fn new(api: &'static str) -> Self {
        Self { api, ahead: AtomicI64::new(0) }
    }

    /// Takes over the `date` of a refusal; whether it differs too much from [`now`](Self::now), so
    /// that the call may succeed with the new time.
    pub(super) fn follow(&self, date: Option<SystemTime>) -> bool {
        let Some(date) = date else { return false };
        let (word, difference) = match date.duration_since(SystemTime::now()) {
            Ok(ahead) => ("behind", ahead),
            Err(error) => ("ahead of", error.duration()),
        };
        let secs = i64::try_from(difference.as_secs()).unwrap_or(i64::MAX);
        let ahead = if word == "behind" { secs } else { -secs };
        let moved = self.ahead.load(Ordering::Relaxed).abs_diff(ahead);
        if moved <= MAX_DIFFERENCE.as_secs() {
            return false;
        }
        self.ahead.store(ahead, Ordering::Relaxed);
        let api = self.api;
        if difference <= MAX_DIFFERENCE {
            info!("the clock of this host agrees with that of {api} again");
        } else {
            let difference = duration(difference);
            warn!(
                "the clock of this host is {difference} {word} that of {api}: calls are signed \
                 with {api}'s time; set the clock"
            );
        }
        true
    }

    /// The time by it, as far as it is known.
    pub(super) fn now(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let difference = Duration::from_secs(ahead.unsigned_abs());
        let now = SystemTime::now();
        let moved = match ahead < 0 {
            true => now.checked_sub(difference),
            false => now.checked_add(difference),
        };
        moved.unwrap_or(now)
    }
}
