//! [`Peer`]: one other node of the overlay.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

/// The answer to [`paths::PEERS`](super::paths::PEERS).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Milliseconds of the daemon's clock, for rates from two answers.
    pub at_millis: u64,
    /// One for each lease, by subnet.
    pub peers: Vec<Peer>,
}

/// One other node, as its lease and the packets from and to it show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Where its outer packets come from and go to.
    pub public_ip: Ipv4Addr,
    /// Its part of the overlay.
    pub subnet: Ipv4Network,
    /// The same of IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ipv6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<Ipv6Network>,
    /// What runs there.
    pub kind: PeerKind,
    /// The backend that its lease names.
    pub backend: String,
    /// Seconds since a packet came from it; absent if none has, or if nobody counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_seconds: Option<u64>,
    /// What went to it since the daemon's start; absent if the kernel forwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Traffic>,
    /// What came from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Traffic>,
    /// The longest packet of the overlay that its path takes, if that is less than the overlay's
    /// MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Why packets do not arrive, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What runs at a peer, as its lease shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// This program.
    Twill,
    /// Stock flannel, or a twill whose lease says no more than stock's.
    Stock,
    /// A node with another backend, which reads none of our packets.
    OtherBackend,
    /// Either: leases of this backend look the same.
    #[serde(other)]
    Unknown,
}

/// Inner packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub packets: u64,
    /// Headers of the inner packets included.
    pub bytes: u64,
}
