//! Snapshots and changes become ordered [`LeaseEvent`]s.
//!
//! Two layers. `Feed` turns a registry, whose watches end, into one that never does: it resumes
//! after the last change it saw, and lists anew when that history is gone. `LeaseTable` turns
//! what it brings into the difference to what is known.

mod feed;
mod table;

pub(crate) use feed::{Feed, Update};

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::table::LeaseTable;
use super::claim::Claim;
use super::lease::{Lease, LeaseEvent};
use super::registry::{Registry, Scope, Snapshot};

/// How long a peer is kept that the registry lost when it was set back. Its node has noticed, too,
/// and writes its lease again: after a pause of at most 5 s ([`Backoff::of_registry`]) and three
/// calls that may take 5 s each.
///
/// [`Backoff::of_registry`]: super::backoff::Backoff::of_registry
const RESET_GRACE: Duration = Duration::from_secs(30);

/// What is known of all leases before they are followed.
#[derive(Debug)]
pub enum Known {
    /// The leases of other nodes as they once were. The registry may know of others by now.
    Remembered(Vec<Lease>),
    /// What the registry has just told.
    Listed(Snapshot),
}

/// What is new.
#[derive(Debug)]
pub struct News {
    /// Changes to other nodes' leases.
    pub events: Vec<LeaseEvent>,
    /// How many entries do not read as leases by now.
    pub num_malformed: usize,
}

/// Hands `sink` every change to the leases of all nodes but our own, for as long as it is polled.
///
/// The first call carries everything there is, be it nothing: at once if it is listed already, or
/// as soon as the registry answers what is different from the leases remembered. Each later one
/// carries at least one event, or another number of malformed entries. A lease that is only renewed
/// is no event, nor is one that a registry which was set back has lost, if its node writes it again
/// within half a minute. Leases that contradict our own claim are noted in `own`. Whether the
/// registry answers is told to `in_touch`, each time that changes.
///
/// # Cancel safety
/// May be dropped at any time; it starts from nothing when called again.
pub async fn follow_leases<R: Registry>(
    registry: &R,
    own: &Claim,
    known: Known,
    in_touch: watch::Sender<bool>,
    mut sink: impl FnMut(News),
) -> Infallible {
    let (feed, remembered) = match known {
        Known::Remembered(leases) => (Feed::new(registry, Scope::All), leases),
        Known::Listed(snapshot) => (Feed::from(registry, Scope::All, snapshot), Vec::new()),
    };
    let mut feed = feed.telling(in_touch);
    let mut table = LeaseTable::new(own, remembered);
    let mut num_malformed = None;
    let mut give_up_at: Option<Instant> = None;
    loop {
        let update = match give_up_at {
            Some(deadline) => timeout_at(deadline, feed.next()).await.ok(),
            None => Some(feed.next().await),
        };
        let events = match update {
            Some(Update::Snapshot(snapshot)) => table.replace(snapshot),
            Some(Update::Changes(changes)) => table.apply(changes),
            Some(Update::Reset(snapshot)) => {
                let events = table.reset(snapshot);
                tracing::warn!(
                    "registry was set back: it lost {} of our peers' leases, which stand for {}s \
                     unless their nodes write them again",
                    table.num_doubted(),
                    RESET_GRACE.as_secs(),
                );
                give_up_at = Some(Instant::now() + RESET_GRACE);
                events
            }
            None => {
                give_up_at = None;
                table.give_up()
            }
        };
        log_events(&events);
        let before = num_malformed.replace(table.num_malformed());
        if before != num_malformed || !events.is_empty() {
            sink(News { events, num_malformed: table.num_malformed() });
        }
    }
}

/// Most events of one batch that get a line each, as stock gives every one. A snapshot of a large
/// network would flood the log, and writing it would take longer than all else.
const MAX_LINES: usize = 100;

fn log_events(events: &[LeaseEvent]) {
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
