//! trait [`Backend`]: what carries packets between this node and its peers.
//!
//! A backend is prepared, started with our lease, given every change in its peers' leases, and
//! asked whether it still works. Dropping it takes away all it made on the host.

pub mod host_gw;
pub mod peer_routes;
pub mod udp;
pub mod vxlan;

use std::io;
use std::net::Ipv4Addr;

use serde::Serialize;
use tokio::sync::watch;

use super::conditions::Conditions;
use super::host::iface::ExternalInterface;
use super::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::host::net::KernelError;
use crate::dataplane::EngineError;
use crate::dataplane::io::tun::TunError;
use crate::dataplane::io::udp::UdpError;
use crate::dataplane::stats::StatsSnapshot;
use crate::dataplane::stats::peers::PeerCount;

/// Carries packets between this node and its peers, for as long as the value lives.
#[expect(async_fn_in_trait, reason = "the control plane runs on one thread: no bound is wanted")]
pub trait Backend: Sized {
    /// What it must know of the host and the network config.
    type Setup;

    /// What it holds before there is a lease.
    type Prepared;

    /// The address that our lease has.
    fn public_ip(setup: &Self::Setup) -> Ipv4Addr;

    /// Takes what another process may hold, such as the port, and returns it with what our lease
    /// is to say of us. This comes before our lease is written, so a daemon that cannot run here
    /// changes nothing in the registry. `previous` is what our lease said before, if that is
    /// known.
    ///
    /// # Errors
    /// [`BackendError`].
    async fn prepare(
        setup: Self::Setup,
        previous: Option<&LeaseAttrs>,
    ) -> Result<(Self::Prepared, LeaseAttrs), BackendError>;

    /// Makes the overlay device of `lease` and starts to carry packets; there are no peers yet.
    ///
    /// # Errors
    /// [`BackendError`]; nothing is left on the host then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing on the host.
    async fn start(prepared: Self::Prepared, lease: &Lease) -> Result<Self, BackendError>;

    /// MTU of the overlay, in bytes.
    fn mtu(&self) -> u16;

    /// Takes over changes in the peers' leases, in order.
    fn apply(&mut self, events: Vec<LeaseEvent>);

    /// The registry has listed every lease, and [`apply`](Self::apply) has taken them over: what
    /// an earlier life left for other peers may go.
    fn synced(&mut self);

    /// Waits until the backend fails for good; for ever, if it does not.
    ///
    /// # Cancel safety
    /// Dropping the future loses no failure.
    async fn failed(&mut self) -> BackendError;

    /// How each thing is that it needs of this host.
    fn conditions(&self) -> Conditions;

    /// What our lease is to say of us, now and whenever that changes; `None` if it never does.
    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        None
    }

    /// Reads what it carried to its peers, and what came from them; a peer may have several
    /// entries, which add up.
    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        // Where the kernel forwards, no packet passes through this process.
        (Vec::new(), Vec::new())
    }

    /// Name of the overlay device.
    fn device(&self) -> String;

    /// How many peers there is a route to.
    fn num_peers(&self) -> usize;

    /// Reads what it counted.
    fn stats(&self) -> BackendStats {
        BackendStats { device: self.device(), num_peers: self.num_peers(), dataplane: None }
    }
}

/// What a backend counted; part of the JSON that `/stats` serves.
#[derive(Debug, Serialize)]
pub struct BackendStats {
    /// Name of the overlay device.
    pub device: String,
    /// Peers there is a route to.
    pub num_peers: usize,
    /// The data plane's counters, if packets pass through this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<StatsSnapshot>,
}

/// Why a backend did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
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
    /// Somebody else has the port.
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
    /// There is no vxlan device.
    #[error(transparent)]
    Vxlan(Box<vxlan::DeviceError>),
    /// The workers did not start, or one of them ended.
    #[error("carry packets")]
    Engine(#[source] EngineError),
    /// The thread that waits for failures could not be started.
    #[error("watch over the workers")]
    Thread(#[source] io::Error),
    /// The task that keeps the device or the peers' entries panicked.
    #[error("keep the overlay device: the task panicked")]
    Panicked,
    /// The kernel's news of links, addresses and routes are over.
    #[error("keep the overlay device: the netlink socket is lost")]
    NetlinkLost,
}

impl From<vxlan::DeviceError> for BackendError {
    fn from(error: vxlan::DeviceError) -> Self {
        Self::Vxlan(Box::new(error))
    }
}

/// The least MTU of an IPv4 link, in bytes: RFC 791, section 3.2.
const MIN_MTU: u32 = crate::dataplane::pmtu::MIN_IPV4_MTU as u32;

/// MTU of an overlay that the kernel carries, in bytes: `chosen` by flag, or else `underlay`, the
/// interface's if the config has none, less `overhead`; never more than the interface takes.
///
/// # Errors
/// [`BackendError::SmallMtu`].
fn kernel_mtu(
    iface: &ExternalInterface,
    underlay: Option<u16>,
    overhead: u32,
    chosen: Option<u16>,
) -> Result<u16, BackendError> {
    let underlay = underlay.map_or(iface.mtu, u32::from).min(u16::MAX.into());
    let min = MIN_MTU + overhead;
    if underlay < min {
        return Err(BackendError::SmallMtu { name: iface.name.clone(), mtu: underlay, min });
    }
    let mtu = chosen.map_or(underlay - overhead, u32::from);
    // A device of the kernel's cannot have more than the link below leaves room for.
    let room = iface.mtu.saturating_sub(overhead).max(MIN_MTU);
    Ok(u16::try_from(mtu.min(room)).unwrap_or(u16::MAX))
}
