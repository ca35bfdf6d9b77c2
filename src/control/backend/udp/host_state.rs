//! [`HostState`]: whether what the overlay needs of this host is in place.

use serde::Serialize;

use crate::control::conditions::{Condition, Conditions};

/// What the overlay needs of this host, each part by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HostState {
    /// The overlay device exists, is up, and workers serve it.
    pub device: Part,
    /// The overlay device has its address.
    pub address: Part,
    /// The Network is routed to the overlay device.
    pub route: Part,
    /// No other route takes packets for a peer away from the overlay device.
    pub peer_routes: Part,
    /// The external interface is up and has the address that is bound to.
    pub underlay: Part,
}

/// Whether one part is in place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It is.
    #[default]
    InPlace,
    /// It is not, for this reason: one line.
    Amiss(String),
}

impl Part {
    /// Whether it is in place.
    pub fn is_in_place(&self) -> bool {
        *self == Self::InPlace
    }
}

impl HostState {
    /// Every part with its name.
    pub const fn parts(&self) -> [(&'static str, &Part); 5] {
        let Self { device, address, route, peer_routes, underlay } = self;
        [
            ("device", device),
            ("address", address),
            ("route", route),
            ("peer_routes", peer_routes),
            ("underlay", underlay),
        ]
    }
}

impl From<&HostState> for Conditions {
    fn from(state: &HostState) -> Self {
        let mut conditions = Self::default();
        for (name, part) in state.parts() {
            conditions.set(
                name,
                match part {
                    Part::InPlace => Condition::Ok,
                    Part::Amiss(reason) => Condition::Failed(reason.clone()),
                },
            );
        }
        conditions
    }
}
