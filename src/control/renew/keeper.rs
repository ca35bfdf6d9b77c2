//! [`Keeper`]: what each answer of the registry means for our lease.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{KeepPolicy, LeaseLost, OnLeaseLoss};
use crate::control::backoff::Backoff;
use crate::control::claim::Claim;
use crate::control::lease::Lease;
use crate::control::log_limit::LogLimit;
use crate::control::registry::{
    Change, Malformed, Read, Registry, RegistryError, Revision, Scope, Write,
};
use crate::control::time_text;
use crate::control::watch::Update;

/// Least time between two renewals, however short the lease and wide the margin.
const MIN_PAUSE: Duration = Duration::from_secs(10);

/// Our lease, and what is to be done about it next.
pub(super) struct Keeper<'r, R, S> {
    registry: &'r R,
    pub(super) lease: Lease,
    policy: KeepPolicy,
    claim: &'r Claim,
    sink: S,
    /// `None` for a reservation.
    pub(super) renew_at: Option<Instant>,
    /// Whether the entry may be newer than we know by a write of our own, whose answer was lost.
    is_in_doubt: bool,
    /// Whether somebody else wrote our entry in our name since we last did.
    is_shared: bool,
    backoff: Backoff,
    log: LogLimit,
}

impl<'r, R: Registry, S: FnMut(&Lease)> Keeper<'r, R, S> {
    pub(super) fn new(
        registry: &'r R,
        lease: Lease,
        policy: KeepPolicy,
        claim: &'r Claim,
        sink: S,
    ) -> Self {
        let is_known = lease.entry.revision != Revision::UNKNOWN;
        let mut keeper = Self {
            registry,
            is_in_doubt: !is_known,
            is_shared: false,
            lease,
            policy,
            claim,
            sink,
            renew_at: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            log: LogLimit::default(),
        };
        if is_known {
            keeper.schedule();
        }
        keeper
    }

    fn schedule(&mut self) {
        if self.lease.is_reservation() {
            self.renew_at = None;
            return;
        }
        let expires = self.lease.expires.unwrap_or_else(Instant::now);
        let remaining = expires.saturating_duration_since(Instant::now());
        let pause = remaining.saturating_sub(self.policy.margin).max(MIN_PAUSE);
        tracing::info!("Waiting for {} to renew lease", time_text::duration(pause));
        self.renew_at = Some(Instant::now() + pause);
    }

    /// The machine slept: our lease went on to expire, while the clock of [`Instant`] stood still.
    pub(super) fn count_sleep(&mut self, slept: Duration) {
        tracing::info!("this machine slept for {}", time_text::duration(slept));
        let earlier = |at: Instant| at.checked_sub(slept).unwrap_or_else(Instant::now);
        self.lease.expires = self.lease.expires.map(earlier);
        self.renew_at = self.renew_at.map(earlier);
    }

    pub(super) async fn renew(&mut self) -> Result<(), LeaseLost> {
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.registry.renew(&self.lease, &self.lease.attrs).await {
            Ok(Write::Done(lease)) => {
                self.hold(lease);
                Ok(())
            }
            Ok(Write::Refused(found)) => self.judge(found).await,
            Err(error) => {
                self.complain(&error);
                Ok(())
            }
        }
    }

    /// What the watch on our entry tells: our own writes, and those of others.
    pub(super) async fn observe(&mut self, update: Update) -> Result<(), LeaseLost> {
        let changes = match update {
            Update::Snapshot(mut snapshot)
            | Update::Relisted(mut snapshot, _)
            | Update::Reset(mut snapshot) => {
                let found = snapshot.entries.pop();
                return self.compare(found).await;
            }
            Update::Changes(changes) => changes,
        };
        for change in changes {
            let known = self.lease.entry.revision;
            match change {
                Change::Put(Ok(lease)) if lease.entry.revision <= known => {}
                Change::Put(Err(Malformed { revision, .. })) if revision <= known => {}
                Change::Delete { revision, .. } if revision <= known => {}
                Change::Put(entry) => self.settle(entry)?,
                Change::Delete { .. } => self.judge(None).await?,
            }
        }
        Ok(())
    }

    /// Our entry as it stands, after a time in which nobody told us of it.
    async fn compare(&mut self, found: Option<Read>) -> Result<(), LeaseLost> {
        if let Some(Ok(Lease { entry, .. })) = &found {
            if *entry == self.lease.entry {
                return Ok(());
            }
            // Older than we know: the registry was set back, and nobody wrote in our name.
            self.is_in_doubt |= entry.revision < self.lease.entry.revision;
        }
        self.judge(found).await
    }

    /// Decides what becomes of us when our entry is `found` like this.
    async fn judge(&mut self, found: Option<Read>) -> Result<(), LeaseLost> {
        if let Some(entry) = found {
            return self.settle(entry);
        }
        let Lease { subnet, ref attrs, expires, .. } = self.lease;
        let is_expired = expires.is_some_and(|expires| expires <= Instant::now());
        if !is_expired && self.policy.on_loss == OnLeaseLoss::Exit {
            return Err(LeaseLost::Deleted { subnet, owner: attrs.public_ip });
        }
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.create_anew().await {
            Ok(Write::Done(lease)) => {
                let fate = if is_expired { "had expired" } else { "was deleted by somebody" };
                tracing::warn!("lease {subnet} {fate} and was created anew");
                self.hold(lease);
            }
            Ok(Write::Refused(Some(entry))) => self.settle(entry)?,
            Ok(Write::Refused(None)) => {}
            Err(error) => self.complain(&error),
        }
        Ok(())
    }

    /// Creates our entry, unless another node has some of its addresses by now.
    async fn create_anew(&self) -> Result<Write, RegistryError> {
        let Lease { subnet, ref attrs, .. } = self.lease;
        let snapshot = self.registry.list(&Scope::All).await?;
        let mut others = snapshot.leases().filter(|lease| lease.attrs.public_ip != attrs.public_ip);
        match others.find(|lease| lease.subnet.overlaps(subnet)) {
            Some(other) => Ok(Write::Refused(Some(Ok(other.clone())))),
            None => self.registry.create(subnet, attrs).await,
        }
    }

    /// The entry belongs to the node whose public IP it carries. Ours may have been written by
    /// somebody else, too: the operator makes it a reservation that way.
    fn settle(&mut self, entry: Read) -> Result<(), LeaseLost> {
        let (subnet, owner) = (self.lease.subnet, self.lease.attrs.public_ip);
        match entry {
            Ok(lease) if lease.attrs.public_ip == owner => {
                self.adopt(lease);
                Ok(())
            }
            Ok(lease) => {
                Err(LeaseLost::TakenOver { subnet, owner, new_owner: lease.attrs.public_ip })
            }
            Err(Malformed { reason, .. }) => {
                Err(LeaseLost::Overwritten { subnet, owner, source: reason })
            }
        }
    }

    fn adopt(&mut self, lease: Lease) {
        if !lease.is_reservation() && !std::mem::take(&mut self.is_in_doubt) {
            self.is_shared = true;
            self.claim.share(&lease);
        }
        let had = std::mem::replace(&mut self.lease.entry, lease.entry);
        if had.revision == Revision::UNKNOWN {
            tracing::info!("registry is back: lease {} is still ours", self.lease.subnet);
        }
        if self.lease.is_reservation() {
            tracing::info!("lease {} is a reservation", self.lease.subnet);
            self.lease.expires = None;
            self.renew_at = None;
        } else if had.ttl_lease != self.lease.entry.ttl_lease {
            // Bound to an expiry that we do not know. Renewing tells.
            self.renew_at = Some(Instant::now() + MIN_PAUSE);
        }
        (self.sink)(&self.lease);
    }

    fn hold(&mut self, lease: Lease) {
        self.lease = lease;
        self.is_in_doubt = false;
        self.backoff.reset();
        if !std::mem::take(&mut self.is_shared) {
            self.claim.settle(&self.lease.entry.key);
        }
        if let Some(expires) = self.lease.expires {
            let at = SystemTime::now() + expires.saturating_duration_since(Instant::now());
            tracing::info!("Lease renewed, new expiration: {}", time_text::utc(at));
        }
        self.schedule();
        (self.sink)(&self.lease);
    }

    fn complain(&mut self, error: &RegistryError) {
        self.is_in_doubt = true;
        if self.log.is_due(error.kind()) {
            let expires = self.lease.expires.unwrap_or_else(Instant::now);
            let left = time_text::duration(expires.saturating_duration_since(Instant::now()));
            tracing::warn!("{error}; trying again, the lease holds for another {left}");
        }
    }
}
