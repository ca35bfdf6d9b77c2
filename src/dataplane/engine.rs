//! Starts and stops the workers.

use std::net::Ipv4Addr;

use super::stats::StatsSnapshot;
use super::tun::TunDevice;
use super::udp::KernelUdp;
use crate::routes::Subnet;
use crate::routes::publish::RouteSubscriber;

/// What the workers must know of this node.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Our lease; what arrives for another subnet is dropped.
    pub subnet: Subnet,
    /// Address of the TUN device: the source of ICMP errors.
    pub tun_addr: Ipv4Addr,
    /// MTU of the TUN device, in bytes; longer datagrams are dropped.
    pub tun_mtu: u16,
}

/// Why the engine did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A worker's device or socket failed for good (the TUN was deleted, say).
    #[error("worker {worker} lost its {what}")]
    Worker {
        /// Number of the worker.
        worker: usize,
        /// `TUN queue` or `UDP socket`.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// The running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Spawns one worker per TUN queue; `sockets` has one socket for each.
    ///
    /// # Errors
    /// [`EngineError`] when a thread or its poll cannot be made.
    pub fn start(
        config: EngineConfig,
        tun: TunDevice,
        sockets: Vec<KernelUdp>,
        routes: RouteSubscriber,
    ) -> Result<Self, EngineError> {
        let _ = (config, tun, sockets, routes);
        Ok(Self {})
    }

    /// Reads every counter. Cheap enough for a metrics scrape; takes no lock.
    pub fn stats(&self) -> StatsSnapshot {
        StatsSnapshot::default()
    }

    /// A channel that yields once for every worker that ended by itself, with the reason.
    pub fn failures(&self) -> crossbeam_channel::Receiver<EngineError> {
        crossbeam_channel::never()
    }

    /// Stops every worker and waits for them; the TUN device goes away with the last queue.
    pub fn stop(self) {}
}
