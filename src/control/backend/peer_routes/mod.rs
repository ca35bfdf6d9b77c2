//! Desired-state netlink: routes, neighbours and forwarding entries towards the peers, for the
//! backends whose packets the kernel forwards.
//!
//! [`Desired`] is pure, [`Tables`] are the kernel's or memory,
//! [`PeerReconciler`] makes the second follow the first. What differs between the backends stands
//! behind [`PeerHost`].

mod changes;
mod desired;
mod entries;
mod forwarding;
mod mac;
mod reconciler;
mod tables;
mod underlay;
#[cfg(test)]
mod tests;

pub use self::changes::TableChanges;
pub use self::desired::{Desired, PeerEntries};
pub use self::entries::{Change, Entries, Hop, Key, Via};
pub use self::forwarding::{Fixed, KernelForwarding};
pub use self::mac::{Mac, MacError};
pub use self::reconciler::{Command, PeerHost, PeerReconciler};
pub use self::tables::delete_marked_routes;
pub use self::tables::{Found, KernelTables, Links, ROUTE_PROTOCOL, Tables};
pub use self::underlay::{Underlay, check_host, underlay_condition};
