//! The leases known, and what a snapshot or a change makes of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnetwork::Ipv4Network;
use tokio::time::Instant;

use super::list_watch::RESET_GRACE;
use crate::control::subnet::kv::conflicts::ConflictTracker;
use crate::control::subnet::kv::registry::{
    Change, Malformed, Read, Revision, Snapshot, Stored, key_of,
};
use crate::control::subnet::lease::{Lease, LeaseEvent};

/// The leases of all other nodes.
///
/// An entry that does not read as a lease changes nothing: what was known of its key stays, until
/// the entry is deleted. Stock treats one such entry as the loss of all peers.
#[derive(Debug)]
pub(super) struct LeaseCache<'a> {
    own: &'a ConflictTracker,
    /// By key, not by subnet: on a dual-stack network two keys can name the same IPv4 subnet.
    known: BTreeMap<String, Stored<Lease>>,
    /// How many of the known leases name a subnet.
    holders: HashMap<Ipv4Network, usize>,
    /// Keys of leases that are known and that a listing did not have, though nobody reported
    /// their end; and until when they stand.
    stale: BTreeMap<String, Instant>,
    /// Keys of the malformed entries, with the revision that was complained about.
    malformed: BTreeMap<String, Revision>,
    /// How often one was written or deleted, or a key next to ours that stock cannot read either.
    num_unreadable_writes: u64,
}

impl<'a> LeaseCache<'a> {
    pub(super) fn new(own: &'a ConflictTracker, known: Vec<Stored<Lease>>) -> Self {
        let known: BTreeMap<String, Stored<Lease>> =
            known.into_iter().map(|lease| (lease.entry.key.clone(), lease)).collect();
        let mut holders = HashMap::new();
        for lease in known.values() {
            *holders.entry(lease.subnet).or_default() += 1;
        }
        let (stale, malformed) = (BTreeMap::new(), BTreeMap::new());
        Self { own, known, holders, stale, malformed, num_unreadable_writes: 0 }
    }

    /// How often anything was written or deleted that a stock node cannot read.
    pub(super) const fn num_unreadable_writes(&self) -> u64 {
        self.num_unreadable_writes
    }

    /// How many leases are known that the registry does not have.
    pub(super) fn num_doubted(&self) -> usize {
        self.stale.len()
    }

    /// The leases that the registry does not have, such as `10.1.1.0/24 of 192.0.2.1`.
    pub(super) fn stale(&self) -> impl Iterator<Item = String> {
        let leases = self.stale.keys().filter_map(|key| self.known.get(key));
        leases.map(|lease| format!("{} of {}", lease.subnet, lease.attrs))
    }

    /// When the first of them is due to be given up.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.stale.values().min().copied()
    }

    /// How many leases are known.
    pub(super) fn num_known(&self) -> usize {
        self.known.len()
    }

    /// How many entries do not read as leases.
    pub(super) fn num_malformed(&self) -> usize {
        self.malformed.len()
    }

    /// Lets go of the leases whose time is up and which nobody wrote again.
    pub(super) fn give_up(&mut self) -> Vec<LeaseEvent<Stored<Lease>>> {
        let now = Instant::now();
        let is_due = |(_, until): &(&String, &Instant)| **until <= now;
        let due: Vec<String> =
            self.stale.iter().filter(is_due).map(|(key, _)| key.clone()).collect();
        due.iter().filter_map(|key| self.forget(key)).collect()
    }

    /// Everybody who is in doubt now gets the whole grace again: until now no node could write
    /// its lease.
    pub(super) fn renew_grace(&mut self) {
        self.stale.values_mut().for_each(|until| *until = Instant::now() + RESET_GRACE);
    }

    /// Takes over everything there is. A lease that is not in there is in doubt: only a watch tells
    /// that it was deleted. Returns how many came to be in doubt just now.
    pub(super) fn replace(
        &mut self,
        snapshot: Snapshot,
    ) -> (Vec<LeaseEvent<Stored<Lease>>>, usize) {
        let listed: HashSet<&str> = snapshot.entries.iter().map(key_of).collect();
        let num_malformed = self.malformed.len();
        self.malformed.retain(|key, _| listed.contains(key.as_str()));
        if self.malformed.len() < num_malformed {
            self.num_unreadable_writes += 1;
        }
        self.stale.retain(|key, _| !listed.contains(key.as_str()));
        let num_before = self.stale.len();
        let until = Instant::now() + RESET_GRACE;
        for key in self.known.keys().filter(|key| !listed.contains(key.as_str())) {
            self.stale.entry(key.clone()).or_insert(until);
        }
        let num_new = self.stale.len() - num_before;
        (snapshot.entries.into_iter().filter_map(|entry| self.learn(entry)).collect(), num_new)
    }

    /// Takes over changes, in order.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Vec<LeaseEvent<Stored<Lease>>> {
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Put(entry) => events.extend(self.learn(entry)),
                Change::Delete { key, .. } => events.extend(self.forget(&key)),
                Change::Cleared { .. } => events.extend(self.forget_all()),
                Change::Foreign => self.num_unreadable_writes += 1,
            }
        }
        events
    }

    fn forget_all(&mut self) -> Vec<LeaseEvent<Stored<Lease>>> {
        let keys: Vec<String> = self.known.keys().chain(self.malformed.keys()).cloned().collect();
        keys.iter().filter_map(|key| self.forget(key)).collect()
    }

    fn learn(&mut self, entry: Read) -> Option<LeaseEvent<Stored<Lease>>> {
        let lease = match entry {
            Ok(lease) => lease,
            Err(malformed) => {
                self.complain(malformed);
                return None;
            }
        };
        self.malformed.remove(&lease.entry.key);
        self.stale.remove(&lease.entry.key);
        self.own.compare(&lease);
        if lease.subnet == self.own.subnets.v4 {
            return None;
        }
        let before = self.known.insert(lease.entry.key.clone(), lease.clone());
        if before.is_none() {
            *self.holders.entry(lease.subnet).or_default() += 1;
        }
        if let Some(before) =
            before.as_ref().filter(|before| before.attrs.public_ip() != lease.attrs.public_ip())
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

    fn forget(&mut self, key: &str) -> Option<LeaseEvent<Stored<Lease>>> {
        if self.malformed.remove(key).is_some() {
            self.num_unreadable_writes += 1;
        }
        self.stale.remove(key);
        self.own.resolve(key);
        let gone = self.known.remove(key)?;
        let heir = self.still_held(gone.subnet).then(|| self.holder(gone.subnet)).flatten();
        Some(match heir {
            Some(heir) => LeaseEvent::Added(heir.clone()),
            None => LeaseEvent::Removed(gone.subnet),
        })
    }

    /// Takes one holder off a subnet; returns whether another is left.
    fn still_held(&mut self, subnet: Ipv4Network) -> bool {
        let Some(num) = self.holders.get_mut(&subnet) else { return false };
        *num -= 1;
        if *num == 0 {
            self.holders.remove(&subnet);
        }
        self.holders.contains_key(&subnet)
    }

    /// A lease of `subnet`: a search through all of them, for a network where two keys name one.
    fn holder(&self, subnet: Ipv4Network) -> Option<&Stored<Lease>> {
        self.known.values().find(|lease| lease.subnet == subnet)
    }

    /// Once for each bad write.
    fn complain(&mut self, malformed: Malformed) {
        let complained = self.malformed.insert(malformed.key.clone(), malformed.revision);
        if complained != Some(malformed.revision) {
            self.num_unreadable_writes += 1;
            let num = self.malformed.len();
            tracing::warn!("skipped {malformed} (now {num} such entries)");
        }
    }
}
