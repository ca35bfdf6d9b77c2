//! trait [`Registry`]: where the network config and the leases of all nodes are kept.
//!
//! A registry is a small database with history: every write gets a [`Revision`], a list is a
//! [`Snapshot`] at one revision, and a watch delivers every change after a revision, in order.
//! Writes are conditional: an entry changes only if it still is as the writer saw it.
//! [`etcd3`], [`etcd2`] and [`file`](mod@file) implement it for real, [`memory`] in this process.
//! [`any_etcd`] is etcd by whichever of its APIs has the network config.

pub mod etcd3;
pub mod etcd2;
pub mod any_etcd;
pub mod file;
pub mod memory;
mod bounds;
mod etcd_fault;
mod failover;
mod history;
mod stored;
#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod test_etcd;

pub use stored::{Entry, Stored, TtlLease};

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseError, excerpt, parse_key};

/// How long a lease holds unless it is renewed: flannel's `subnetTTL` in `pkg/subnet/etcd`.
pub const LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A point in a registry's history; every write makes a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// That of an entry which was not read from the registry: none has it.
    pub const UNKNOWN: Self = Self(0);
}

/// An entry that does not read as a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {key}: {reason}")]
pub struct Malformed {
    /// The key, less what all entries share.
    pub key: String,
    /// The revision of its last write.
    pub revision: Revision,
    /// What is wrong with it.
    pub reason: LeaseError,
    /// The beginning of its value, on one line.
    pub found: String,
}

/// Most of a value that is shown, in characters.
const MAX_SHOWN: usize = 60;

impl Malformed {
    pub(crate) fn new(
        Entry { key, revision, .. }: Entry,
        reason: LeaseError,
        value: &[u8],
    ) -> Self {
        Self { key, revision, reason, found: excerpt(value, MAX_SHOWN) }
    }

    /// The subnets, if the key at least names them: they are taken.
    pub fn subnets(&self) -> Option<Subnets> {
        parse_key(&self.key).ok()
    }
}

/// One entry as read: a lease, or the reason why it is none.
pub type Read = Result<Stored<Lease>, Malformed>;

/// The key of an entry, less what all entries share.
pub(crate) fn key_of(entry: &Read) -> &str {
    match entry {
        Ok(lease) => &lease.entry.key,
        Err(malformed) => &malformed.key,
    }
}

/// The subnets that an entry names.
pub(crate) fn subnets_of(entry: &Read) -> Option<Subnets> {
    match entry {
        Ok(lease) => Some(lease.subnets()),
        Err(malformed) => malformed.subnets(),
    }
}

/// Which store a registry is, of all that could answer at its address. It stays the same while the
/// store lives, restarts and writes included, and is another one for another store.
///
/// A store that was wiped, or restored from a backup, may well keep it: etcd makes its cluster id
/// of how the cluster was set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreId(pub(crate) String);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All entries of a [`Scope`] at one revision, in byte order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The store that was asked.
    pub store: StoreId,
    /// The revision at which the list is complete; a watch goes on from here.
    pub revision: Revision,
    /// The entries.
    pub entries: Vec<Read>,
}

/// One write to an entry, as a watch delivers it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The entry was created or overwritten.
    Put(Read),
    /// The entry was deleted, or expired.
    Delete {
        /// The key, less what all entries share.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
    /// Every entry was deleted, or expired, at once: the directory that they were in.
    Cleared {
        /// The revision of the deletion.
        revision: Revision,
    },
    /// A key was written or deleted that is no entry of ours, but one to a stock node, which it
    /// makes forget all its peers. No listing has it.
    Foreign,
}

/// Changes in the order they were made; none when the registry only tells how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Every change up to this revision has been delivered.
    pub revision: Revision,
    /// The changes.
    pub changes: Vec<Change>,
}

/// Which entries a list or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every entry.
    All,
    /// The one entry of this key, less what all entries share.
    Key(String),
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// It was made; the lease as it is now.
    Done(Stored<Lease>),
    /// It was not, as the entry is no longer what the writer saw: the entry now, if any.
    Refused(Option<Read>),
}

/// Why a registry did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No server could be asked, or none answered well.
    #[error("{operation}: {reason}")]
    Call {
        /// What was asked for, such as `list leases`.
        operation: &'static str,
        /// What each server said.
        reason: String,
    },
    /// A watch ended.
    #[error("watch leases: {reason}")]
    WatchEnded {
        /// Why, as far as is known.
        reason: String,
    },
    /// The history a watch would need is gone: compacted. Only a new list helps.
    #[error("watch leases: the history after revision {} is gone", after.0)]
    HistoryGone {
        /// The revision the watch should have gone on from.
        after: Revision,
    },
    /// The history a watch would need never was: the registry lost its data, was restored from a
    /// backup, or is another one. Only a new list helps.
    #[error("watch leases: the registry that answers never was at revision {}", after.0)]
    SetBack {
        /// The revision the watch should have gone on from.
        after: Revision,
    },
}

impl RegistryError {
    /// Why, without what was asked for.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Call { reason, .. } | Self::WatchEnded { reason } => reason.clone(),
            Self::HistoryGone { .. } | Self::SetBack { .. } => self.to_string(),
        }
    }

    /// The same text for errors of the same kind, whatever their details.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Call { operation, .. } => operation,
            Self::WatchEnded { .. } => "watch ended",
            Self::HistoryGone { .. } => "history gone",
            Self::SetBack { .. } => "set back",
        }
    }
}

/// Keeps the network config and the leases.
///
/// Every method but [`LeaseWatch::next`] ends within seconds, with an error if it must.
pub trait Registry: Send + Sync {
    /// A running watch.
    type Watch: LeaseWatch;

    /// Where the network config is kept, for messages: `etcd key /coreos.com/network/config`.
    fn config_name(&self) -> String;

    /// What the state file calls the registry: the same in every life of this node.
    fn name_in_state(&self) -> String {
        self.config_name()
    }

    /// The network config's text; `None` when nobody has written one yet.
    fn config(&self) -> impl Future<Output = Result<Option<String>, RegistryError>> + Send;

    /// Where else there is a network config, when there is none at [`config_name`]: what it is
    /// called, and the flags that lead there. For messages.
    ///
    /// [`config_name`]: Self::config_name
    fn config_elsewhere(&self) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }

    /// Which store answers now: `etcd cluster cdf818194e3a8c32`.
    fn identity(&self) -> impl Future<Output = Result<StoreId, RegistryError>> + Send;

    /// All entries of `scope` as they stand now.
    fn list(&self, scope: &Scope) -> impl Future<Output = Result<Snapshot, RegistryError>> + Send;

    /// Watches the entries of `scope` from the change after `after` on.
    fn watch(
        &self,
        scope: &Scope,
        after: Revision,
    ) -> impl Future<Output = Result<Self::Watch, RegistryError>> + Send;

    /// Creates the entry of `subnets` for [`LEASE_TTL`]. Refused when there is one already.
    fn create(
        &self,
        subnets: Subnets,
        attrs: &LeaseAttrs,
    ) -> impl Future<Output = Result<Write, RegistryError>> + Send;

    /// Writes `attrs` to the entry of `lease`, for another [`LEASE_TTL`] from now; a reservation
    /// stays one. Refused when the entry changed since `lease` was read. An entry that does not
    /// read as a lease is written to in the same way, with its key and revision.
    fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> impl Future<Output = Result<Write, RegistryError>> + Send;

    /// Writes the entry of `lease` as it is, expiry and all, so that a watch tells of it once more.
    /// Refused when it changed since `lease` was read.
    fn announce(
        &self,
        lease: &Stored<Lease>,
    ) -> impl Future<Output = Result<Write, RegistryError>> + Send;

    /// Gives back an expiry of ours that our entry is no longer bound to. If anything else is
    /// bound to it, it stays.
    fn release(
        &self,
        ttl_lease: TtlLease,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// For how much longer the entry of `lease` holds unless it is renewed; `None` where that
    /// is not known.
    fn time_left(&self, _lease: &Stored<Lease>) -> impl Future<Output = Option<Duration>> + Send {
        std::future::ready(None)
    }

    /// Makes later requests use new connections: one from an address that this host
    /// no longer has is dead, and nobody says so.
    fn reconnect(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Deletes the entry of `lease`; `false` when it changed since `lease` was read.
    fn delete(
        &self,
        lease: &Stored<Lease>,
    ) -> impl Future<Output = Result<bool, RegistryError>> + Send;
}

/// Delivers changes, each once, in order.
pub trait LeaseWatch: Send {
    /// The store that is watched.
    fn store(&self) -> &StoreId;

    /// The next changes, or news of how far the registry is.
    ///
    /// After an error the watch is of no further use.
    ///
    /// # Errors
    /// [`RegistryError::HistoryGone`] or [`RegistryError::SetBack`] when only a new list helps.
    /// After anything else a new watch may go on from the last delivered revision, but only a new
    /// list proves that the history is still the same.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Batch, RegistryError>> + Send;
}

impl Snapshot {
    /// The subnets that each entry names, whether or not the rest of it is readable.
    pub fn taken(&self) -> impl Iterator<Item = Subnets> {
        self.entries.iter().filter_map(subnets_of)
    }

    /// The entries that are leases.
    pub fn leases(&self) -> impl Iterator<Item = &Stored<Lease>> {
        self.entries.iter().filter_map(|entry| entry.as_ref().ok())
    }
}

/// Reads one entry from its key, less what all share, and its value.
pub(crate) fn read_entry(entry: Entry, value: &[u8]) -> Read {
    let subnets = parse_key(&entry.key);
    match subnets.and_then(|subnets| Ok((subnets, LeaseAttrs::from_json(value)?))) {
        Ok((Subnets { v4: subnet, v6: ipv6_subnet }, attrs)) => {
            Ok(Stored { value: Lease { subnet, ipv6_subnet, attrs, expires: None }, entry })
        }
        Err(reason) => Err(Malformed::new(entry, reason, value)),
    }
}
