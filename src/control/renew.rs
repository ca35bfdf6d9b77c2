//! Keeps our own lease: renews it in time, and notices when it is no longer ours.

use std::future::pending;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::lease::{Lease, LeaseError};
use super::log_limit::LogLimit;
use super::registry::{Change, Malformed, Read, Registry, RegistryError, Scope, Write};
use super::time_text;
use super::watch::{Feed, Update};
use crate::routes::Subnet;

/// Least time between two renewals, however short the lease and wide the margin.
const MIN_PAUSE: Duration = Duration::from_secs(10);

/// Why our lease is ours no more. The daemon cannot go on with its subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// Somebody deleted it.
    #[error("lease {subnet} of {owner} was deleted before it expired")]
    Deleted {
        /// Our subnet.
        subnet: Subnet,
        /// Our public IP.
        owner: Ipv4Addr,
    },
    /// Another node holds the subnet.
    #[error("lease {subnet} of {owner} now belongs to {new_owner}")]
    TakenOver {
        /// Our subnet.
        subnet: Subnet,
        /// Our public IP.
        owner: Ipv4Addr,
        /// The other node's public IP.
        new_owner: Ipv4Addr,
    },
    /// Something was written there that is no lease.
    #[error("lease {subnet} of {owner} was overwritten with what is no lease")]
    Overwritten {
        /// Our subnet.
        subnet: Subnet,
        /// Our public IP.
        owner: Ipv4Addr,
        /// What is wrong with it.
        #[source]
        source: LeaseError,
    },
}

/// Renews `lease` for as long as it is ours, `margin` before it would expire, and returns when
/// it is lost.
///
/// Each renewal writes the entry anew, so that stock peers that dropped it learn it again, and
/// only if it still is as we know it: unlike stock, this never overwrites another node's lease.
/// Between renewals a watch on the entry tells of its loss at once. While the registry does not
/// answer, the lease stands until it expires; if it did by the time the registry is back, it is
/// created anew unless somebody else has the subnet by then.
///
/// A reservation never expires and is only watched.
///
/// # Cancel safety
/// May be dropped at any time; the lease stays in the registry until it expires.
pub async fn keep_lease<R: Registry>(registry: &R, lease: &Lease, margin: Duration) -> LeaseLost {
    let scope = Scope::Key(lease.entry.key.clone());
    let mut feed = Feed::after(registry, scope, lease.entry.revision);
    let mut keeper = Keeper::new(registry, lease.clone(), margin);
    loop {
        let still_ours = tokio::select! {
            update = feed.next() => keeper.observe(update).await,
            () = until(keeper.renew_at) => keeper.renew().await,
        };
        if let Err(lost) = still_ours {
            return lost;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

struct Keeper<'r, R> {
    registry: &'r R,
    lease: Lease,
    margin: Duration,
    /// `None` for a reservation.
    renew_at: Option<Instant>,
    backoff: Backoff,
    log: LogLimit,
}

impl<'r, R: Registry> Keeper<'r, R> {
    fn new(registry: &'r R, lease: Lease, margin: Duration) -> Self {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let log = LogLimit::default();
        let mut keeper = Self { registry, lease, margin, renew_at: None, backoff, log };
        keeper.schedule();
        keeper
    }

    fn schedule(&mut self) {
        if self.lease.is_reservation() {
            self.renew_at = None;
            return;
        }
        let expires = self.lease.expires.unwrap_or_else(Instant::now);
        let remaining = expires.saturating_duration_since(Instant::now());
        let pause = remaining.saturating_sub(self.margin).max(MIN_PAUSE);
        tracing::info!("Waiting for {} to renew lease", time_text::duration(pause));
        self.renew_at = Some(Instant::now() + pause);
    }

    async fn renew(&mut self) -> Result<(), LeaseLost> {
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
    async fn observe(&mut self, update: Update) -> Result<(), LeaseLost> {
        let changes = match update {
            Update::Snapshot(mut snapshot) => return self.judge(snapshot.entries.pop()).await,
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

    /// Decides what becomes of us when our entry is `found` like this.
    async fn judge(&mut self, found: Option<Read>) -> Result<(), LeaseLost> {
        if let Some(entry) = found {
            return self.settle(entry);
        }
        let Lease { subnet, ref attrs, expires, .. } = self.lease;
        if expires.is_none_or(|expires| Instant::now() < expires) {
            return Err(LeaseLost::Deleted { subnet, owner: attrs.public_ip });
        }
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.registry.create(subnet, attrs).await {
            Ok(Write::Done(lease)) => {
                tracing::warn!("lease {subnet} had expired and was created anew");
                self.hold(lease);
            }
            Ok(Write::Refused(Some(entry))) => self.settle(entry)?,
            Ok(Write::Refused(None)) => {}
            Err(error) => self.complain(&error),
        }
        Ok(())
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
        let had = std::mem::replace(&mut self.lease.entry, lease.entry);
        if self.lease.is_reservation() {
            tracing::info!("lease {} is a reservation", self.lease.subnet);
            self.lease.expires = None;
            self.renew_at = None;
        } else if had.ttl_lease != self.lease.entry.ttl_lease {
            // Bound to an expiry that we do not know. Renewing tells.
            self.renew_at = Some(Instant::now() + MIN_PAUSE);
        }
    }

    fn hold(&mut self, lease: Lease) {
        self.lease = lease;
        self.backoff.reset();
        if let Some(expires) = self.lease.expires {
            let at = SystemTime::now() + expires.saturating_duration_since(Instant::now());
            tracing::info!("Lease renewed, new expiration: {}", time_text::utc(at));
        }
        self.schedule();
    }

    fn complain(&mut self, error: &RegistryError) {
        if self.log.is_due(error.kind()) {
            let expires = self.lease.expires.unwrap_or_else(Instant::now);
            let left = time_text::duration(expires.saturating_duration_since(Instant::now()));
            tracing::warn!("{error}; trying again, the lease holds for another {left}");
        }
    }
}

#[cfg(test)]
mod tests;
