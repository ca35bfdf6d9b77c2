//! [`Drops`]: packets that ended in the data plane, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer to [`paths::DROPS`](super::paths::DROPS).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drops {
    /// Milliseconds of the daemon's clock, for rates from two answers.
    pub at_millis: u64,
    /// One for each reason and direction with a count, the largest first.
    pub drops: Vec<DropRow>,
}

/// The packets that were dropped for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DropRow {
    /// As `/stats` and `/metrics` name it: `no_route`.
    pub reason: String,
    /// `egress` towards the peers, `ingress` from them.
    pub direction: String,
    /// What the reason means, in one sentence.
    pub meaning: String,
    /// Packets, of all workers.
    pub count: u64,
    /// The packet that was dropped last, if the workers recorded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Offender>,
}

/// A packet that was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offender {
    /// Addresses of the inner packet, if it has a header that reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// The peer that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Length of the inner packet in bytes.
    pub len: u32,
    /// Seconds since then, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_ago: Option<u64>,
}
