//! Backends whose packets a cloud's network forwards: one route to this node, kept in the cloud.
//!
//! ```text
//! CloudDriver<C> ─► CloudRoute, the whole Backend
//!                       └─ RouteReconciler: C::ensure_route now, after a failure, slowly, and
//!                          when asked
//! ```
//!
//! What differs between the clouds is behind [`Cloud`]. There is no device, and peers' leases are
//! not read: every node keeps its own route, and no other. [`Endpoint`] and [`Retries`] are what
//! the clouds' APIs have in common.

mod driver;
mod endpoint;
mod environment;
mod forwarding;
mod reconciler;
mod retries;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

pub(super) use self::driver::CloudDriver;
pub(super) use self::endpoint::{Answer, Endpoint};
pub(super) use self::environment::{Environment, read_file};
pub(super) use self::retries::{CloudError, Fault, Retries};

/// A cloud that can route a subnet to this node.
pub(super) trait Cloud: Send + 'static {
    /// What forwards the packets, as `--config-check` prints it.
    const ROUTES: &'static str;

    /// Makes the cloud's network send packets for our subnet to this node, if it does not do so
    /// yet. Returns what keeps packets from arriving all the same: one line.
    ///
    /// # Errors
    /// [`CloudError`]: one line that says what is missing.
    fn ensure_route(
        &mut self,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Option<String>, CloudError>> + Send;
}

/// The route that is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Our subnet.
    pub(super) subnet: Ipv4Network,
    /// The overlay.
    pub(super) network: Ipv4Network,
    /// Our address on the external interface.
    pub(super) addr: Ipv4Addr,
}
