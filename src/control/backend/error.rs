//! [`BackendError`]: why a backend did not start, or failed.

use std::error::Error;
use std::net::Ipv4Addr;

use crate::control::host::net::KernelError;
use crate::control::host::preflight::PreflightError;
use crate::dataplane::EngineError;
use crate::dataplane::io::tun::TunError;
use crate::dataplane::io::udp::UdpError;

/// Why a backend did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The host lacks something that this backend needs.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The external interface cannot carry a useful packet.
    #[error("interface {name} has MTU {mtu}, too small for an overlay: {min} is the least")]
    SmallMtu {
        /// Name of the interface.
        name: String,
        /// Its MTU, in bytes.
        mtu: u32,
        /// The least that would do, in bytes.
        min: u32,
    },
    /// The overlay device could not be made.
    #[error("make the overlay device")]
    Tun(#[source] TunError),
    /// The overlay device could not be set up.
    #[error("set up the overlay device")]
    Kernel(#[source] KernelError),
    /// Another process has the port.
    #[error(
        "the overlay's UDP port is taken, perhaps by another flanneld (ss -ulpn shows by whom): \
         stop that, or change Backend.Port in the network config of all nodes"
    )]
    PortTaken(#[source] UdpError),
    /// The sockets could not be made.
    #[error("open the underlay sockets")]
    Udp(#[source] UdpError),
    /// The address of the underlay is not on this host.
    #[error("no interface has the address {addr} of the underlay")]
    NoUnderlay {
        /// The address.
        addr: Ipv4Addr,
    },
    /// Peers send to an address that is not the interface's.
    #[error(
        "the public IP {public_ip} is not the address {addr} of {name}: behind a NAT host-gw cannot \
         work; set Backend.Type to vxlan or udp in the network config of all nodes"
    )]
    BehindNat {
        /// What peers send to.
        public_ip: Ipv4Addr,
        /// The interface's address.
        addr: Ipv4Addr,
        /// The interface.
        name: String,
    },
    /// The backend's own device could not be made.
    #[error(transparent)]
    Device(Box<dyn Error + Send + Sync>),
    /// The settings of the cloud's tools cannot be used.
    #[error("{0}")]
    Cloud(String),
    /// The workers did not start, or one of them ended.
    #[error("carry packets")]
    Engine(#[source] EngineError),
    /// The task that keeps the device or the peers' entries panicked.
    #[error("keep the overlay device: the task panicked")]
    Panicked,
    /// The netlink subscription to links, addresses and routes ended.
    #[error("keep the overlay device: the netlink socket is lost")]
    NetlinkLost,
}
