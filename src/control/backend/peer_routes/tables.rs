//! Trait [`Tables`]: the neighbours, forwarding database and routes that hold a backend's entries.

use ipnetwork::Ipv4Network;

use super::entries::{Change, Entries};
use crate::control::host::net::KernelError;

/// The links that entries belong to, by the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// The backend's own device, if it has one.
    pub overlay: Option<u32>,
    /// The external interface.
    pub underlay: u32,
}

/// What was found in the tables.
#[derive(Debug, Default)]
pub struct Found {
    /// Entries that are ours: on our own device, or routes with our mark.
    pub entries: Entries,
    /// Deletes duplicates: other entries under the same name.
    pub strays: Vec<Change>,
}

/// Tables of entries, of the kernel or in memory.
#[expect(async_fn_in_trait, reason = "all callers run on one thread: no bound is wanted")]
pub trait Tables {
    /// Reads the entries that are ours, inside `network` as far as they have an address.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn read(&self, links: Links, network: Ipv4Network) -> Result<Found, KernelError>;

    /// Makes one change. Deleting an entry that does not exist is not an error.
    ///
    /// # Errors
    /// [`KernelError`] naming the change; of the kind `AlreadyExists` when another route to
    /// the subnet is in the way.
    async fn apply(&self, links: Links, change: Change) -> Result<(), KernelError>;
}
