//! [`Announcer`]: when to write our lease again though nothing about it changed.
//!
//! A stock node that missed the write of our lease, or dropped it, has no route to us until we
//! write it again: stock forgets all peers at any entry that it cannot read, and its versions
//! before 0.22 miss writes. Our renewals are 23 hours apart. So the same value is written again:
//! soon after we joined, soon after anything that makes a stock node forget or miss us, and now
//! and then. All nodes of a network see the same causes, so they share one budget: each waits for
//! a random part of a time that grows with their number.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::control::subnet::kv::list_watch::CacheUpdate;
use crate::control::subnet::kv::registry::Stored;
use crate::control::subnet::lease::{Lease, LeaseEvent};
use crate::control::util::rng::rng;

/// How long after we joined.
const AFTER_JOIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];

/// The share of one lease in the time over which all nodes spread their writes: together they
/// write some three keys a second.
const TIME_PER_LEASE: Duration = Duration::from_millis(300);

/// Least time between two writes for which there is no cause.
const MIN_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How long after a cause, at the least: there may be more of them.
const AFTER_CAUSE: Duration = Duration::from_secs(1);

/// Least time between two writes with a cause, in the smallest of networks.
const MIN_PAUSE: Duration = Duration::from_secs(10);

/// Pause after a write that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// What happened in the registry that may have cost us a stock node's route to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnnounceCauses {
    /// How many leases there are.
    num_leases: usize,
    /// How often something happened.
    num_causes: u64,
    num_unreadable_writes: u64,
}

impl AnnounceCauses {
    #[cfg(test)]
    pub(super) const fn of(num_leases: usize, num_causes: u64) -> Self {
        Self { num_leases, num_causes, num_unreadable_writes: 0 }
    }

    /// Takes note of what is new: a stock peer may have missed our lease when it started; an entry
    /// that cannot be read makes every stock node forget its peers, and so does its deletion.
    pub fn observe(&mut self, update: &CacheUpdate) {
        let is_stock_peer = |event: &LeaseEvent<Stored<Lease>>| match event {
            LeaseEvent::Added(lease) => may_be_stock(lease),
            LeaseEvent::Removed(_) => false,
        };
        self.num_leases = update.num_known;
        let num_unreadable_writes =
            std::mem::replace(&mut self.num_unreadable_writes, update.num_unreadable_writes);
        if num_unreadable_writes != update.num_unreadable_writes
            || update.events.iter().any(is_stock_peer)
        {
            self.num_causes += 1;
        }
    }
}

/// Stock's udp backend writes no data of its own, and twill does unless a flag says not to.
fn may_be_stock(lease: &Lease) -> bool {
    lease.attrs.v4.backend_data.is_none() || lease.attrs.backend_type.is_some()
}

/// Plans our writes.
#[derive(Debug)]
pub(super) struct Announcer {
    causes: AnnounceCauses,
    after_join: Vec<Instant>,
    /// When to write because of a cause.
    after_cause: Option<Instant>,
    /// Not to be written because of a cause any earlier.
    not_before: Instant,
    /// After a failure.
    retry_at: Instant,
    last_write: Instant,
    /// By how much the present interval differs from its due length.
    jitter: f64,
}

impl Announcer {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut announcer = Self {
            causes: AnnounceCauses::default(),
            after_join: Vec::new(),
            after_cause: None,
            not_before: now,
            retry_at: now,
            last_write: now,
            jitter: 1.0,
        };
        announcer.join();
        announcer
    }

    /// Our lease has just been created, or is known again.
    pub(super) fn join(&mut self) {
        let jitter = rng().random_range(0.8..=1.2);
        self.after_join = AFTER_JOIN.map(|delay| Instant::now() + delay.mul_f64(jitter)).to_vec();
    }

    /// Takes note of new causes.
    pub(super) fn hear(&mut self, causes: AnnounceCauses) {
        let before = std::mem::replace(&mut self.causes, causes);
        if before.num_causes != causes.num_causes && self.after_cause.is_none() {
            let delay = AFTER_CAUSE + self.spread().mul_f64(rng().random_range(0.0..=1.0));
            self.after_cause = Some((Instant::now() + delay).max(self.not_before));
        }
    }

    /// When to write next.
    pub(super) fn due(&self) -> Instant {
        let interval = self.spread().max(MIN_INTERVAL).mul_f64(self.jitter);
        let planned = self.after_join.iter().copied().chain(self.after_cause);
        planned.fold(self.last_write + interval, Instant::min).max(self.retry_at)
    }

    /// Our entry was just written, for whatever reason: that does for every cause up to now.
    pub(super) fn written(&mut self) {
        let now = Instant::now();
        if self.after_cause.take().is_some() {
            self.not_before = now + MIN_PAUSE + self.spread();
        }
        self.after_join.retain(|at| *at > now);
        self.last_write = now;
        self.jitter = rng().random_range(0.75..=1.25);
    }

    pub(super) fn failed(&mut self) {
        self.retry_at = Instant::now() + RETRY_INTERVAL.mul_f64(rng().random_range(0.5..=1.0));
    }

    /// The time over which all nodes spread what each of them writes once.
    fn spread(&self) -> Duration {
        TIME_PER_LEASE.saturating_mul(self.causes.num_leases.try_into().unwrap_or(u32::MAX))
    }
}
