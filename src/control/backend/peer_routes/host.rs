//! Trait [`PeerHost`]: what differs between the backends whose packets the kernel forwards.

use ipnetwork::Ipv4Network;

use super::desired::PeerEntries;
use super::entries::Entries;
use super::tables::{Links, Tables};
use crate::control::backend::BackendError;
use crate::control::conditions::Conditions;
use crate::control::subnet::lease::LeaseAttrs;

/// What a backend does on its host for the reconciler.
#[expect(async_fn_in_trait, reason = "all callers run on one thread: no bound is wanted")]
pub trait PeerHost {
    /// The tables it keeps entries in.
    type Tables: Tables;

    /// The tables.
    fn tables(&self) -> &Self::Tables;

    /// The whole overlay: entries outside of it are not ours.
    fn network(&self) -> Ipv4Network;

    /// Our own part of it.
    fn own(&self) -> Ipv4Network;

    /// Repairs its device, if it has one, and checks the external interface. Sets a condition for
    /// each.
    ///
    /// # Errors
    /// [`BackendError`] when there is no device to put entries on; tried again soon.
    async fn reconcile_links(&mut self, conditions: &mut Conditions)
    -> Result<Links, BackendError>;

    /// What this peer needs.
    ///
    /// # Errors
    /// One line that says why its lease cannot be followed.
    async fn peer(&self, subnet: Ipv4Network, attrs: &LeaseAttrs) -> Result<PeerEntries, String>;

    /// Waits until the kernel reports a change to what is ours, of which `there` is how we left it;
    /// for ever if there will be none.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    async fn changed(&mut self, there: &Entries);

    /// Forgets the changes that have been reported by now.
    fn drain_changes(&mut self);

    /// Logs, in stock's words, that the peer of `subnet` gets these entries.
    fn log_added(&self, subnet: Ipv4Network, peer: &PeerEntries);

    /// Logs, in stock's words, that the peer of `subnet` is gone.
    fn log_removed(&self, subnet: Ipv4Network);
}
