//! Snapshots and changes become ordered [`LeaseEvent`]s.
//!
//! Two layers. `Feed` turns a registry, whose watches end, into one that never does: it resumes
//! after the last change it saw, and lists anew when that history is gone. `LeaseTable` turns
//! what it brings into the difference to what is known.

mod feed;
mod table;

pub(crate) use feed::{Feed, Update};

use std::convert::Infallible;

use tokio::sync::watch;

use self::table::LeaseTable;
use super::claim::Claim;
use super::lease::{Lease, LeaseEvent};
use super::registry::{Registry, Scope};

/// Hands `sink` every change to the leases of all nodes but our own, for as long as it is polled.
///
/// The first call, as soon as the registry answers, carries everything there is, be it nothing;
/// or, if some leases are `known` from elsewhere, what is different from them. Each later one
/// carries at least one event. A lease that is only renewed is no event. Leases that contradict our
/// own claim are noted in `own`. Whether the registry answers is told to `in_touch`, each time that
/// changes.
///
/// # Cancel safety
/// May be dropped at any time; it starts from nothing when called again.
pub async fn follow_leases<R: Registry>(
    registry: &R,
    own: &Claim,
    known: Vec<Lease>,
    in_touch: watch::Sender<bool>,
    mut sink: impl FnMut(Vec<LeaseEvent>),
) -> Infallible {
    let mut feed = Feed::new(registry, Scope::All).telling(in_touch);
    let mut table = LeaseTable::new(own, known);
    let mut is_first = true;
    loop {
        let events = match feed.next().await {
            Update::Snapshot(snapshot) => table.replace(snapshot),
            Update::Changes(changes) => table.apply(changes),
        };
        log_events(&events);
        if is_first || !events.is_empty() {
            sink(events);
        }
        is_first = false;
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
