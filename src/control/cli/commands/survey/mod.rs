//! What the diagnostic commands know of the node before they ask its peers: its settings, the network,
//! the leases, and its own addresses.

mod daemon;
mod own;
mod registry;
mod settings;
mod ways;

pub(in crate::control::cli) use self::daemon::{own_daemons, status};
pub(in crate::control::cli) use self::own::{Device, Own, Wire};
pub(in crate::control::cli) use self::registry::{LeaseFact, OtherNetwork, RegistryFacts};
pub(in crate::control::cli) use self::settings::{Settings, Source};
pub(in crate::control::cli) use self::ways::{FixedMac, WayProblem, fixed_mac, way_problem};
