//! The vxlan backend: the kernel's own tunnel, and three entries per peer.
//!
//! Parity is with flannel's `pkg/backend/vxlan`: the same device, entries and lease. Nothing is
//! taken away at the end, so packets go on while no flanneld runs.

mod device;
mod host;
mod lease_data;

use std::net::Ipv4Addr;

use tracing::info;

pub use self::device::DeviceError;
use self::device::{DeviceSpec, address_and_up};
use self::host::{CONDITIONS, VxlanHost};
use self::lease_data::{BACKEND_TYPE, advertise, vtep_mac};
use super::peer_routes::{KernelTables, Links, Mac, PeerRoutes, TableChanges, underlay_link};
use super::{Backend, BackendError, BackendStats};
use crate::control::conditions::Conditions;
use crate::control::config::{NetworkConfig, VxlanConfig};
use crate::control::iface::ExternalInterface;
use crate::control::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::dataplane::peer_counters::PeerCount;
use crate::routes::kernel::{self, Netlink};

/// Bytes of the outer headers: Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5).
pub(in crate::control) const ENCAP_OVERHEAD: u32 = 50;

/// What the vxlan backend must know.
#[derive(Debug, Clone)]
pub struct VxlanSetup {
    /// Carries the underlay.
    pub iface: ExternalInterface,
    /// The overlay.
    pub network: NetworkConfig,
    /// `Backend` of the network config.
    pub vxlan: VxlanConfig,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    pub mtu: Option<u16>,
}

/// The device, before there is a lease.
#[derive(Debug)]
pub struct PreparedVxlan {
    setup: VxlanSetup,
    net: Netlink,
    spec: DeviceSpec,
    links: Links,
    mac: Mac,
    mtu: u16,
    changes: TableChanges,
}

/// The running vxlan backend.
#[derive(Debug)]
pub struct VxlanBackend {
    name: String,
    mtu: u16,
    peers: PeerRoutes,
}

/// MTU of the overlay, in bytes: `Backend.MTU`, or the interface's MTU, less the outer headers.
///
/// # Errors
/// [`BackendError::SmallMtu`].
pub(in crate::control) fn overlay_mtu(
    iface: &ExternalInterface,
    vxlan: &VxlanConfig,
    chosen: Option<u16>,
) -> Result<u16, BackendError> {
    super::kernel_mtu(iface, vxlan.mtu, ENCAP_OVERHEAD, chosen)
}

impl Backend for VxlanBackend {
    type Setup = VxlanSetup;
    type Prepared = PreparedVxlan;

    fn public_ip(setup: &VxlanSetup) -> Ipv4Addr {
        setup.iface.public_ip
    }

    async fn prepare(
        setup: VxlanSetup,
        previous: Option<&LeaseAttrs>,
    ) -> Result<(PreparedVxlan, LeaseAttrs), BackendError> {
        let VxlanConfig { vni, port, gbp, learning, direct_routing, .. } = setup.vxlan;
        info!(
            "VXLAN config: VNI={vni} Port={} GBP={gbp} Learning={learning} \
             DirectRouting={direct_routing}",
            port.unwrap_or_default(),
        );
        let mtu = overlay_mtu(&setup.iface, &setup.vxlan, setup.mtu)?;
        // Before anything is made: no change is missed.
        let (connection, changes) = TableChanges::subscribe().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let (connection, net) = kernel::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let spec = DeviceSpec {
            name: format!("flannel.{vni}"),
            vni,
            port,
            learning,
            gbp,
            local: setup.iface.addr,
            mtu: mtu.into(),
        };
        let underlay = underlay_link(&net, &setup.iface).await.map_err(BackendError::Kernel)?;
        let underlay = underlay.ok_or(BackendError::NoUnderlay { addr: setup.iface.addr })?;
        // Peers that know our address need no update after a reboot.
        let mac = previous.and_then(|attrs| vtep_mac(attrs).ok()).unwrap_or_else(Mac::random);
        let device = spec.ensure(&net, underlay.index, mac).await;
        let device = device.map_err(|error| BackendError::Vxlan(Box::new(error)))?;
        let attrs = advertise(LeaseAttrs::udp(setup.iface.public_ip), vni, device.mac);
        let links = Links { overlay: Some(device.link.index), underlay: underlay.index };
        let prepared = PreparedVxlan { setup, net, spec, links, mac: device.mac, mtu, changes };
        Ok((prepared, attrs))
    }

    async fn start(prepared: PreparedVxlan, lease: &Lease) -> Result<Self, BackendError> {
        let PreparedVxlan { setup, net, spec, links, mac, mtu, changes } = prepared;
        let (addr, network) = (lease.subnet.addr(), setup.network.network);
        let device = spec.ensure(&net, links.underlay, mac).await;
        let device = device.map_err(|error| BackendError::Vxlan(Box::new(error)))?;
        let addressed = address_and_up(&net, &device.link, addr, network).await;
        addressed.map_err(BackendError::Kernel)?;
        let (connection, tables) = KernelTables::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        info!(device = %spec.name, mtu, "overlay device is up");
        let name = spec.name.clone();
        let links = Links { overlay: Some(device.link.index), ..links };
        let host = VxlanHost {
            net,
            tables,
            changes,
            spec,
            mac,
            links,
            iface: setup.iface,
            network,
            addr,
            direct_routing: setup.vxlan.direct_routing,
        };
        let conditions = Conditions::ok(&CONDITIONS);
        let peers =
            PeerRoutes::start(BACKEND_TYPE, host, links, conditions, |tasks, reconciler| {
                tasks.spawn(reconciler.run());
            });
        Ok(Self { name, mtu, peers })
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        self.peers.apply(events);
    }

    fn synced(&mut self) {
        self.peers.synced();
    }

    async fn failed(&mut self) -> BackendError {
        self.peers.failed().await
    }

    fn conditions(&self) -> Conditions {
        self.peers.conditions().borrow().clone()
    }

    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        (Vec::new(), Vec::new())
    }

    fn device(&self) -> String {
        self.name.clone()
    }

    fn num_peers(&self) -> usize {
        self.peers.num_peers()
    }

    fn stats(&self) -> BackendStats {
        BackendStats { device: self.device(), num_peers: self.num_peers(), dataplane: None }
    }
}
