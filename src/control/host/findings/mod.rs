//! Faults of the host that keep packets of containers from the overlay, found without changing
//! anything. `flanneld doctor` looks for them once, and the running daemon again and again.

mod bridges;
mod forwarding;

pub use self::bridges::bridge_problem;
pub use self::forwarding::{dropped_forward, no_forwarding};

use ipnetwork::Ipv4Network;

/// The overlay as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayFacts {
    /// All of it.
    pub network: Ipv4Network,
    /// This node's part.
    pub subnet: Ipv4Network,
    /// The overlay device, or the external interface if there is none.
    pub device: String,
    /// MTU for containers, in bytes.
    pub mtu: u16,
}

/// What is wrong, and what to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong: one sentence.
    pub text: String,
    /// What to do about it.
    pub advice: String,
}
