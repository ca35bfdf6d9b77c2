//! Desired-state netlink: routes, neighbours and forwarding entries towards the peers, for the
//! backends whose packets the kernel forwards.
//!
//! [`Desired`] is pure, [`Tables`] are the kernel's or memory,
//! [`PeerReconciler`] makes the second follow the first. What differs between the backends is
//! behind [`PeerHost`].

mod changes;
mod desired;
mod entries;
mod failures;
mod forwarding;
mod host;
mod kernel_entries;
mod kernel_tables;
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
pub use self::host::PeerHost;
pub use self::kernel_tables::KernelTables;
pub use self::mac::{Mac, MacError};
pub use self::reconciler::{Command, PeerReconciler};
pub use self::tables::{Found, Links, Tables};
pub use self::underlay::{Underlay, check_host, underlay_condition};
