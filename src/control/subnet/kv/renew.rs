//! Keeps our own lease: renews it in time, and notices when it is no longer ours.

mod announcer;
mod renewer;
mod rewrites;
mod suspension;

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::announcer::AnnounceCauses;
use self::renewer::LeaseRenewer;
use self::suspension::Suspension;
use super::conflicts::ConflictTracker;
use super::list_watch::ListWatch;
use super::registry::{Registry, Revision, Scope, Stored};
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::subnet::LeaseLost;
use crate::control::subnet::lease::{Lease, LeaseAttrs};

/// How a lease is kept.
#[derive(Debug, Clone, Copy)]
pub struct KeepPolicy {
    /// How long before its expiry it is renewed.
    pub margin: Duration,
    /// What to do when somebody deletes it.
    pub on_loss: OnLeaseLoss,
}

/// How often to look whether the machine slept: within so short a time of its waking up, a lease
/// that had so much longer to live is renewed.
const SUSPENSION_PERIOD: Duration = Duration::from_secs(5 * 60);

/// Renews `lease` for as long as it is ours, some time before it would expire, and returns when
/// it is lost. Every new state of it is handed to `sink`; who else claims it is noted in `claim`.
/// Now and then, and soon after each of `causes`, the entry is written as it is, so that stock nodes
/// that missed or forgot it learn it.
///
/// Each renewal writes the entry again, so that stock peers that dropped it learn it again, and
/// only if it still is as we know it: unlike stock, this never overwrites another node's lease.
/// Between renewals a watch on the entry tells of its loss at once. While the registry does not
/// answer, the lease holds until it expires; if it did by the time the registry is back, it is
/// created again unless somebody else has the subnet by then. With [`OnLeaseLoss::Reacquire`] the
/// same goes for a lease that somebody deleted. The time for which the machine slept counts.
///
/// What names no other node makes nobody its owner: an entry overwritten with that is written again,
/// and so is one in our name that says something else of us.
///
/// A lease of no known revision comes from an earlier life of this node: the registry is asked
/// first what became of it.
///
/// What the lease is to say of us comes from `attrs`. When that changes, as with the address of our
/// interface, our entry is written again and the subnet stays.
///
/// A reservation never expires and is only watched.
///
/// # Cancel safety
/// May be dropped at any time; the lease stays in the registry until it expires.
pub async fn keep_lease_saying<R: Registry>(
    registry: &R,
    lease: &Stored<Lease>,
    policy: KeepPolicy,
    claim: &ConflictTracker,
    mut causes: watch::Receiver<AnnounceCauses>,
    mut attrs: watch::Receiver<LeaseAttrs>,
    sink: impl FnMut(&Stored<Lease>),
) -> LeaseLost {
    let scope = Scope::Key(lease.entry.key.clone());
    let mut feed = match lease.entry.revision {
        Revision::UNKNOWN => ListWatch::new(registry, scope),
        revision => ListWatch::after(registry, scope, revision),
    }
    .quiet();
    let mut renewer = LeaseRenewer::new(registry, lease.clone(), policy, claim, sink);
    let mut suspension = Suspension::new();
    loop {
        if let Some(slept) = suspension.take() {
            renewer.count_sleep(slept);
        }
        let still_ours = tokio::select! {
            // The watch first: a renewal that does not know them would be refused.
            biased;
            update = feed.next() => {
                if let Some(slept) = suspension.take() {
                    renewer.count_sleep(slept);
                }
                renewer.observe(update).await
            }
            Ok(()) = attrs.changed() => {
                let attrs = attrs.borrow_and_update().clone();
                renewer.say(attrs).await
            }
            () = until(renewer.renew_at) => renewer.renew().await,
            Ok(()) = causes.changed() => {
                renewer.announcer.hear(*causes.borrow_and_update());
                Ok(())
            }
            () = until(renewer.announce_at()) => renewer.announce().await,
            () = sleep(SUSPENSION_PERIOD) => Ok(()),
        };
        if let Err(lost) = still_ours {
            renewer.release_all().await;
            return lost;
        }
        renewer.release_stale().await;
    }
}

/// [`keep_lease_saying`] the same of us as long as we live.
#[cfg(test)]
pub(super) async fn keep_lease<R: Registry>(
    registry: &R,
    lease: &Stored<Lease>,
    policy: KeepPolicy,
    claim: &ConflictTracker,
    causes: watch::Receiver<AnnounceCauses>,
    sink: impl FnMut(&Stored<Lease>),
) -> LeaseLost {
    let (_, attrs) = watch::channel(lease.attrs.clone());
    keep_lease_saying(registry, lease, policy, claim, causes, attrs, sink).await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
