//! Notifies the service manager: readiness, status, and a keep-alive for the watchdog.
//!
//! The protocol is sd_notify(3). Flannel sends `READY=1` alone; the rest is ours. Without
//! `NOTIFY_SOCKET`, as outside systemd, nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::warn;

/// Sends everything in `states` to the service manager, in one message.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot notify systemd");
    }
}

/// Says when the next keep-alive is due, if the unit has a `WatchdogSec=`.
#[derive(Debug)]
pub(crate) struct Watchdog {
    ticks: Option<Interval>,
}

impl Watchdog {
    /// The watchdog that the service manager's variables describe.
    pub(crate) fn from_env() -> Self {
        Self::new(sd_notify::watchdog_enabled())
    }

    /// A watchdog that fires after `timeout` without a keep-alive.
    ///
    /// Keep-alives are sent at half of that, as sd_watchdog_enabled(3) recommends.
    fn new(timeout: Option<Duration>) -> Self {
        let period = timeout.map(|timeout| timeout / 2).filter(|period| !period.is_zero());
        let ticks = period.map(|period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            // After a stall one keep-alive is enough; the missed ones are not sent.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { ticks }
    }

    /// Waits until a keep-alive is due; for ever without a watchdog.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn due(&mut self) {
        match &mut self.ticks {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_are_due_at_half_the_timeout() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(60)));
        let start = Instant::now();
        for sign in 1..=3 {
            watchdog.due().await;
            assert_eq!(start.elapsed(), Duration::from_secs(30) * sign);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stall_is_not_made_up_for_by_a_burst() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(200)).await;
        watchdog.due().await;
        let start = Instant::now();
        watchdog.due().await;
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_nothing_is_ever_due() {
        for none in [None, Some(Duration::ZERO)] {
            let mut watchdog = Watchdog::new(none);
            assert!(timeout(DAY, watchdog.due()).await.is_err());
        }
    }
}
