//! [`LeaseTable`]: the leases known, and what a snapshot or a change makes of them.

use std::collections::{BTreeMap, HashSet};

use crate::control::lease::{Lease, LeaseEvent};
use crate::control::registry::{Change, Malformed, Read, Revision, Snapshot};
use crate::routes::Subnet;

/// The leases of all other nodes.
///
/// An entry that does not read as a lease changes nothing: what was known of its key stays, until
/// the entry is deleted. Stock treats one such entry as the loss of all peers.
#[derive(Debug)]
pub(super) struct LeaseTable {
    own: Subnet,
    /// By key, not by subnet: on a dual-stack network two keys can name the same IPv4 subnet.
    known: BTreeMap<String, Lease>,
    /// Keys of the malformed entries, with the revision that was complained about.
    malformed: BTreeMap<String, Revision>,
}

impl LeaseTable {
    pub(super) fn new(own: Subnet) -> Self {
        Self { own, known: BTreeMap::new(), malformed: BTreeMap::new() }
    }

    /// Takes over everything there is. Removals come first.
    pub(super) fn replace(&mut self, snapshot: Snapshot) -> Vec<LeaseEvent> {
        let listed: HashSet<&String> = snapshot.entries.iter().map(key_of).collect();
        self.malformed.retain(|key, _| listed.contains(key));
        let is_gone = |key: &&String| !listed.contains(key);
        let gone: Vec<String> = self.known.keys().filter(is_gone).cloned().collect();
        let mut events: Vec<LeaseEvent> = gone.iter().filter_map(|key| self.forget(key)).collect();
        events.extend(snapshot.entries.into_iter().filter_map(|entry| self.learn(entry)));
        events
    }

    /// Takes over changes, in order.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Vec<LeaseEvent> {
        let event = |change| match change {
            Change::Put(entry) => self.learn(entry),
            Change::Delete { key, .. } => self.forget(&key),
        };
        changes.into_iter().filter_map(event).collect()
    }

    fn learn(&mut self, entry: Read) -> Option<LeaseEvent> {
        let lease = match entry {
            Ok(lease) => lease,
            Err(malformed) => {
                self.complain(malformed);
                return None;
            }
        };
        self.malformed.remove(&lease.entry.key);
        if lease.subnet == self.own {
            return None;
        }
        let before = self.known.insert(lease.entry.key.clone(), lease.clone());
        let is_news = before.is_none_or(|before| before.attrs != lease.attrs);
        is_news.then_some(LeaseEvent::Added(lease))
    }

    fn forget(&mut self, key: &str) -> Option<LeaseEvent> {
        self.malformed.remove(key);
        let gone = self.known.remove(key)?;
        let heir = self.known.values().find(|lease| lease.subnet == gone.subnet);
        Some(match heir {
            Some(heir) => LeaseEvent::Added(heir.clone()),
            None => LeaseEvent::Removed(gone.subnet),
        })
    }

    /// Once for each bad write.
    fn complain(&mut self, malformed: Malformed) {
        let complained = self.malformed.insert(malformed.key.clone(), malformed.revision);
        if complained != Some(malformed.revision) {
            let num = self.malformed.len();
            tracing::warn!("skipped {malformed} (now {num} such entries)");
        }
    }
}

fn key_of(entry: &Read) -> &String {
    match entry {
        Ok(lease) => &lease.entry.key,
        Err(malformed) => &malformed.key,
    }
}
