//! Faults of the host that keep packets of containers from the overlay, found without changing
//! anything. `flanneld doctor` looks for them once, and the running daemon again and again.

mod bridges;
mod forwarding;
mod sysctl;
mod watch;

use std::net::Ipv4Addr;

pub use self::bridges::{BridgeFacts, bridge_problem, bridges};
pub use self::forwarding::{dropped_bridged, dropped_forward, no_forwarding};
pub use self::sysctl::sysctl;
pub use self::watch::{HostFindings, HostWatch};

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
    /// What comes of it.
    pub harm: Harm,
}

/// What comes of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Packets are lost.
    Loss,
    /// Long packets are lost or fragmented.
    LongPackets,
    /// None, until a container is started.
    NoneYet,
    /// Packets between containers of this host are lost, and no others.
    OnThisHost,
}

impl OverlayFacts {
    /// An address that some peer may have.
    pub fn a_peer(&self) -> Ipv4Addr {
        let first = self.network.network();
        // Ours is as good as any other, but rules may be about it.
        let other = if self.subnet.contains(first) { self.network.broadcast() } else { first };
        Ipv4Addr::from_bits(other.to_bits() ^ 2)
    }
}
