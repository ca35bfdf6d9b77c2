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
use super::lease::LeaseEvent;
use super::registry::{Registry, Scope};
use crate::routes::Subnet;

/// Hands `sink` every change to the leases of all nodes but our own, for as long as it is polled.
///
/// The first call, as soon as the registry answers, carries everything there is, be it nothing.
/// Each later one carries at least one event. A lease that is only renewed is no event. Whether the
/// registry answers is told to `in_touch`, each time that changes.
///
/// # Cancel safety
/// May be dropped at any time; it starts from nothing when called again.
pub async fn follow_leases<R: Registry>(
    registry: &R,
    own: Subnet,
    in_touch: watch::Sender<bool>,
    mut sink: impl FnMut(Vec<LeaseEvent>),
) -> Infallible {
    let mut feed = Feed::new(registry, Scope::All).telling(in_touch);
    let mut table = LeaseTable::new(own);
    let mut is_first = true;
    loop {
        let events = match feed.next().await {
            Update::Snapshot(snapshot) => table.replace(snapshot),
            Update::Changes(changes) => table.apply(changes),
        };
        for event in &events {
            match event {
                LeaseEvent::Added(lease) => tracing::info!("Subnet added: {}", lease.subnet),
                LeaseEvent::Removed(subnet) => tracing::info!("Subnet removed: {subnet}"),
            }
        }
        if is_first || !events.is_empty() {
            sink(events);
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests;
