//! [`Drops`]: packets that ended in the data plane, and why.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The answer to [`paths::DROPS`](super::paths::DROPS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Milliseconds of the daemon's clock, for rates from two answers.
    pub at_millis: u64,
    /// The overlay device; absent while there is no node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether packets pass through this process. If not, only the kernel knows what it drops.
    pub counted: bool,
    /// One for each reason and direction with a count, the largest first.
    pub drops: Vec<DropRow>,
}

/// The packets that were dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// As `/stats` and `/metrics` name it: `no_route`.
    pub reason: String,
    /// `egress` towards the peers, `ingress` from them.
    pub direction: String,
    /// What the reason means, in one sentence.
    pub meaning: String,
    /// Packets, of all workers.
    pub count: u64,
    /// One of the packets that were dropped last, if a worker wrote one down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Offender>,
}

/// A packet that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offender {
    /// Addresses of the inner packet; absent if it has no IPv4 header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Ipv4Addr>,
    /// IP protocol number.
    pub protocol: u8,
    /// Of TCP and UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Length of the inner packet or superpacket in bytes.
    pub len: u16,
}
