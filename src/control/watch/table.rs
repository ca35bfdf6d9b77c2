//! [`LeaseTable`]: the leases known, and what a snapshot or a change makes of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::control::claim::Claim;
use crate::control::lease::{Lease, LeaseEvent};
use crate::control::registry::{Change, Malformed, Read, Revision, Snapshot, key_of};
use crate::routes::Subnet;

/// The leases of all other nodes.
///
/// An entry that does not read as a lease changes nothing: what was known of its key stays, until
/// the entry is deleted. Stock treats one such entry as the loss of all peers.
#[derive(Debug)]
pub(super) struct LeaseTable<'a> {
    own: &'a Claim,
    /// By key, not by subnet: on a dual-stack network two keys can name the same IPv4 subnet.
    known: BTreeMap<String, Lease>,
    /// How many of the known leases name a subnet.
    holders: HashMap<Subnet, usize>,
    /// Keys of leases that are known, but no longer to the registry, which was set back.
    doubted: BTreeSet<String>,
    /// Keys of the malformed entries, with the revision that was complained about.
    malformed: BTreeMap<String, Revision>,
}

impl<'a> LeaseTable<'a> {
    pub(super) fn new(own: &'a Claim, known: Vec<Lease>) -> Self {
        let known: BTreeMap<String, Lease> =
            known.into_iter().map(|lease| (lease.entry.key.clone(), lease)).collect();
        let mut holders = HashMap::new();
        for lease in known.values() {
            *holders.entry(lease.subnet).or_default() += 1;
        }
        Self { own, known, holders, doubted: BTreeSet::new(), malformed: BTreeMap::new() }
    }

    /// Takes over everything there is in a registry that was set back. What it does not have any
    /// more is kept until [`give_up`](Self::give_up).
    pub(super) fn reset(&mut self, snapshot: Snapshot) -> Vec<LeaseEvent> {
        self.doubted.extend(self.known.keys().cloned());
        self.replace(snapshot)
    }

    /// How many leases are known that the registry lost.
    pub(super) fn num_doubted(&self) -> usize {
        self.doubted.len()
    }

    /// How many entries do not read as leases.
    pub(super) fn num_malformed(&self) -> usize {
        self.malformed.len()
    }

    /// Lets go of the leases that the registry lost and nobody wrote again.
    pub(super) fn give_up(&mut self) -> Vec<LeaseEvent> {
        let doubted = std::mem::take(&mut self.doubted);
        doubted.iter().filter_map(|key| self.forget(key)).collect()
    }

    /// Takes over everything there is. Removals come first.
    pub(super) fn replace(&mut self, snapshot: Snapshot) -> Vec<LeaseEvent> {
        let listed: HashSet<&str> = snapshot.entries.iter().map(key_of).collect();
        self.malformed.retain(|key, _| listed.contains(key.as_str()));
        self.doubted.retain(|key| !listed.contains(key.as_str()));
        let is_gone =
            |key: &&String| !listed.contains(key.as_str()) && !self.doubted.contains(*key);
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
        self.doubted.remove(&lease.entry.key);
        self.own.compare(&lease);
        if lease.subnet == self.own.subnet {
            return None;
        }
        let before = self.known.insert(lease.entry.key.clone(), lease.clone());
        if before.is_none() {
            *self.holders.entry(lease.subnet).or_default() += 1;
        }
        if let Some(before) =
            before.as_ref().filter(|before| before.attrs.public_ip != lease.attrs.public_ip)
        {
            let subnet = lease.subnet;
            tracing::warn!(
                "lease {subnet} of {} was overwritten: it is {}'s now",
                before.attrs,
                lease.attrs
            );
        }
        let is_news = before.is_none_or(|before| before.attrs != lease.attrs);
        is_news.then_some(LeaseEvent::Added(lease))
    }

    fn forget(&mut self, key: &str) -> Option<LeaseEvent> {
        self.malformed.remove(key);
        self.doubted.remove(key);
        self.own.settle(key);
        let gone = self.known.remove(key)?;
        let heir = self.still_held(gone.subnet).then(|| self.holder(gone.subnet)).flatten();
        Some(match heir {
            Some(heir) => LeaseEvent::Added(heir.clone()),
            None => LeaseEvent::Removed(gone.subnet),
        })
    }

    /// Takes one holder off a subnet; returns whether another is left.
    fn still_held(&mut self, subnet: Subnet) -> bool {
        let Some(num) = self.holders.get_mut(&subnet) else { return false };
        *num -= 1;
        if *num == 0 {
            self.holders.remove(&subnet);
        }
        self.holders.contains_key(&subnet)
    }

    /// A lease of `subnet`: a search through all of them, for a network where two keys name one.
    fn holder(&self, subnet: Subnet) -> Option<&Lease> {
        self.known.values().find(|lease| lease.subnet == subnet)
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
