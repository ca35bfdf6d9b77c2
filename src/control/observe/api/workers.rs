//! [`Workers`]: what each worker of the data plane has done.

use serde::{Deserialize, Serialize};

/// The answer to [`paths::WORKERS`](super::paths::WORKERS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// Milliseconds of the daemon's clock, for rates from two answers.
    pub at_millis: u64,
    /// By number; none if the kernel forwards.
    pub workers: Vec<Worker>,
}

/// Counters of one worker, from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub number: usize,
    /// Time that its thread has used, user and system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Towards the peers.
    pub egress: Way,
    /// From them.
    pub ingress: Way,
    /// Datagrams that the kernel dropped because the receive queue was full.
    pub queue_overflows: u64,
    /// Times that it found nothing to do.
    pub sleeps: u64,
}

/// One direction of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Inner packets carried.
    pub packets: u64,
    pub bytes: u64,
    /// System calls that brought them: packets for each are the batch size.
    pub reads: u64,
    /// System calls that carried them out.
    pub writes: u64,
    /// Packets dropped, for any reason.
    pub drops: u64,
}
