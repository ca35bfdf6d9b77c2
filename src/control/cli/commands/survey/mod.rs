//! What the diagnostic commands know of the node before they ask its peers: its settings, the network,
//! the leases, and its own addresses.

mod own;
mod registry;
mod settings;
mod ways;

pub(in crate::control::cli) use self::own::{Device, Own, Wire};
pub(in crate::control::cli) use self::registry::{LeaseFact, OtherNetwork, RegistryFacts};
pub(in crate::control::cli) use self::settings::{Settings, SettingsError, Source};
pub(in crate::control::cli) use self::ways::way_problem;
