//! [`RepairLimit`]: a token bucket for repairs.

use std::time::Duration;

use tokio::time::Instant;

/// Cost of a repair: one that is always undone runs once a second.
const COST: Duration = Duration::from_secs(1);

/// Most debt: up to 16 repairs run without a delay.
const BURST: Duration = Duration::from_secs(16);

/// Limits how often repairs follow each other, so that two programs that undo each other's work do
/// not use a whole core.
#[derive(Debug)]
pub(super) struct RepairLimit {
    /// When all repairs so far are paid for.
    paid_at: Instant,
}

impl RepairLimit {
    /// No repair yet.
    pub(super) fn new() -> Self {
        Self { paid_at: Instant::now() }
    }

    /// How long to wait after a repair.
    pub(super) fn delay(&mut self) -> Duration {
        let now = Instant::now();
        self.paid_at = self.paid_at.max(now) + COST;
        (self.paid_at - now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_repairs_is_immediate_and_endless_ones_run_once_a_second() {
        let mut limit = RepairLimit::new();
        for _ in 0..16 {
            assert_eq!(limit.delay(), Duration::ZERO);
        }
        let start = Instant::now();
        for _ in 0..10 {
            sleep(limit.delay()).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(limit.delay(), Duration::ZERO);
    }
}
