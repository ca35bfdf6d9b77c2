//! Snapshots and changes become ordered [`LeaseEvent`]s.
//!
//! Two layers. `ListWatch` turns a registry, whose watches end, into one that never does: it resumes
//! after the last change it saw, and lists again when that history is gone. `LeaseCache` turns
//! what it brings into the difference to what is known.

mod watcher;

pub(crate) use watcher::{Gap, ListWatch, Update};

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::conflicts::ConflictTracker;
use super::lease_cache::LeaseCache;
use super::registry::{Registry, Scope, Snapshot, Stored};
use crate::control::subnet::lease::{Lease, LeaseEvent};

/// How long a peer is kept that a listing does not have, though no watch reported the end of its
/// lease: the registry may have lost it. Its node has noticed, too, and writes its lease again:
/// after a pause of at most 5 s ([`Backoff::of_registry`]) and three calls that may take 5 s each.
///
/// [`Backoff::of_registry`]: crate::control::util::backoff::Backoff::of_registry
pub(crate) const RESET_GRACE: Duration = Duration::from_secs(30);

/// How soon to look again whether leases whose time is up can be given up.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of all leases before they are followed.
#[derive(Debug)]
pub enum InitialLeases {
    /// The leases of other nodes as they once were. The registry may know of others by now.
    Cached(Vec<Stored<Lease>>),
    /// What the registry has just listed.
    Listed(Snapshot),
}

/// What is new.
#[derive(Debug)]
pub struct CacheUpdate {
    /// Changes to other nodes' leases.
    pub events: Vec<LeaseEvent<Stored<Lease>>>,
    /// How many entries do not read as leases by now.
    pub num_malformed: usize,
    /// How many leases of other nodes are known by now.
    pub num_known: usize,
    /// How often such an entry was written or deleted since we first looked.
    pub num_unreadable_writes: u64,
    /// Which peers' leases the registry lost, while they stand all the same.
    pub stale: Option<String>,
}

/// Hands `sink` every change to the leases of all nodes but our own, for as long as it is polled.
///
/// The first call carries everything there is, even if that is nothing: at once if it is listed already, or
/// as soon as the registry answers what is different from the leases remembered. Each later one
/// carries at least one event, or tells of a malformed entry written or gone. A lease that is only renewed
/// is no event, nor is one that the registry lost while nobody watched, if its node writes it again
/// within half a minute. Leases that contradict our own claim are noted in `own`. Whether the
/// registry answers is sent to `in_touch`, each time that changes.
///
/// # Cancel safety
/// May be dropped at any time; it starts from nothing when called again.
pub async fn follow_leases<R: Registry>(
    registry: &R,
    own: &ConflictTracker,
    known: InitialLeases,
    in_touch: watch::Sender<bool>,
    mut sink: impl FnMut(CacheUpdate),
) -> Infallible {
    let (feed, remembered) = match known {
        InitialLeases::Cached(leases) => (ListWatch::new(registry, Scope::All), leases),
        InitialLeases::Listed(snapshot) => {
            (ListWatch::from(registry, Scope::All, snapshot), Vec::new())
        }
    };
    let mut feed = feed.telling(in_touch);
    let mut table = LeaseCache::new(own, remembered);
    let mut told = None;
    let mut not_before = Instant::now();
    loop {
        let deadline = table.give_up_at().map(|at| at.max(not_before));
        let update = match deadline {
            Some(deadline) => timeout_at(deadline, feed.next()).await.ok(),
            None => Some(feed.next().await),
        };
        let events = match update {
            Some(Update::Changes(changes)) => table.apply(changes),
            Some(Update::Snapshot(snapshot)) => relist(&mut table, snapshot, Gap::Silence),
            Some(Update::Relisted(snapshot, gap)) => relist(&mut table, snapshot, gap),
            Some(Update::Reset(snapshot)) => {
                let (events, _) = table.replace(snapshot);
                table.renew_grace();
                log_doubted(&table, "was set back");
                events
            }
            None if feed.is_watching() => table.give_up(),
            None => {
                // The registry is away, or just back. What it has, the next listing tells.
                not_before = Instant::now() + RETRY_INTERVAL;
                Vec::new()
            }
        };
        log_events(&events);
        let num_unreadable_writes = table.num_unreadable_writes();
        let stale = stale(&table);
        let now = Some((table.num_malformed(), num_unreadable_writes, stale.clone()));
        if told != now || !events.is_empty() {
            told = now;
            sink(CacheUpdate {
                stale,
                events,
                num_malformed: table.num_malformed(),
                num_unreadable_writes,
                num_known: table.num_known(),
            });
        }
    }
}

/// Takes over a listing of a registry whose history may well be the one that we followed.
fn relist(
    table: &mut LeaseCache<'_>,
    snapshot: Snapshot,
    gap: Gap,
) -> Vec<LeaseEvent<Stored<Lease>>> {
    let (mut events, num_new) = table.replace(snapshot);
    match gap {
        Gap::Silence => table.renew_grace(),
        Gap::None | Gap::WatchLost => events.extend(table.give_up()),
    }
    if num_new > 0 {
        let what_happened = if gap == Gap::None { "was listed once more" } else { "is back" };
        log_doubted(table, what_happened);
    }
    events
}

/// Most peers of one listing that are named.
const MAX_NAMES: usize = 10;

fn log_doubted(table: &LeaseCache<'_>, what_happened: &str) {
    let (num, names, grace) = (table.num_doubted(), names(table), RESET_GRACE.as_secs());
    tracing::warn!(
        "registry {what_happened}: it lost {num} of our peers' leases{names}, which stand \
         for {grace}s unless their nodes write them again",
    );
}

/// What the registry lost and we have not given up yet, for `/readyz`.
fn stale(table: &LeaseCache<'_>) -> Option<String> {
    let (num, grace) = (table.num_doubted(), RESET_GRACE.as_secs());
    (num > 0).then(|| {
        format!(
            "the registry lost {num} of our peers' leases{}: they end {grace}s after it answered \
             again, unless their nodes write them",
            names(table),
        )
    })
}

fn names(table: &LeaseCache<'_>) -> String {
    let num = table.num_doubted();
    let mut names = table.stale().take(MAX_NAMES).collect::<Vec<String>>().join(", ");
    if num > MAX_NAMES {
        names += ", ...";
    }
    if num > 0 { format!(" ({names})") } else { names }
}

/// Most events of one batch that get a line each, as stock gives every one. A snapshot of a large
/// network would flood the log, and writing it would take longer than all else.
const MAX_LINES: usize = 100;

fn log_events(events: &[LeaseEvent<Stored<Lease>>]) {
    for event in events {
        match event {
            LeaseEvent::Added(lease) => {
                let (subnet, ip) = (lease.subnet, lease.attrs.public_ip());
                tracing::debug!(key = %lease.entry.key, "lease of {subnet} is that of {ip} now");
            }
            LeaseEvent::Removed(subnet) => tracing::debug!("lease of {subnet} is gone"),
        }
    }
    if events.len() > MAX_LINES {
        let num_added = events.iter().filter(|event| matches!(event, LeaseEvent::Added(_))).count();
        let num_removed = events.len() - num_added;
        tracing::info!("Subnets added: {num_added}, removed: {num_removed}");
        return;
    }
    for event in events {
        match event {
            LeaseEvent::Added(lease) => tracing::info!("Subnet added: {}", lease.subnet),
            LeaseEvent::Removed(subnet) => tracing::info!("Subnet removed: {subnet}"),
        }
    }
}

#[cfg(test)]
mod tests;
