//! What the workers counted. Each counter has one writer; any thread may read it.

pub mod worker;
pub mod direction;
pub mod peers;
pub mod offload_state;
pub mod drop_reason;
pub mod offender;
pub mod peer_error;
pub mod counter;

use std::net::Ipv4Addr;

use serde::Serialize;

use self::worker::WorkerSnapshot;

/// A reading of all counters; serialises to the JSON that `/stats` serves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatsSnapshot {
    /// One entry for each worker, by number.
    pub workers: Vec<WorkerSnapshot>,
    /// The paths whose MTU is below the overlay MTU, by peer.
    pub narrow_paths: Vec<PathSnapshot>,
}

/// A reading of one narrow path, as `/stats` serves it.
#[derive(Debug, Clone, Serialize)]
pub struct PathSnapshot {
    /// The peer's public IP.
    pub peer: Ipv4Addr,
    /// Length of the longest packet that fits its path, in bytes.
    pub mtu: u16,
}
