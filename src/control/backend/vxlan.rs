//! The vxlan backend: the kernel's own tunnel, and three entries per peer.
//!
//! Parity is with flannel's `pkg/backend/vxlan`: the same device, entries and lease. Nothing is
//! taken away at the end, so packets go on while no flanneld runs.

mod device;
mod host;
mod lease_data;

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::device::DeviceError;
use self::device::{Device, DeviceSpec, address};
use self::host::{CONDITIONS, VxlanHost};
use self::lease_data::{BACKEND_TYPE, advertise, vtep_mac};
use super::peer_routes::{KernelTables, Links, Mac, PeerRoutes, TableChanges, Underlay};
use super::{Backend, BackendError};
use crate::control::conditions::Conditions;
use crate::control::config::backend::VxlanConfig;
use crate::control::config::network::NetworkConfig;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::host::net::Netlink;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};

/// Bytes of the outer headers: Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5).
pub(in crate::control) const ENCAP_OVERHEAD: u32 = 50;

/// What the vxlan backend must know.
#[derive(Debug, Clone)]
pub struct VxlanSetup {
    /// Carries the underlay.
    pub iface: ExternalInterface,
    /// How it was chosen, to choose again when its address is gone.
    pub choice: IfaceChoice,
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
    network: Ipv4Network,
    direct_routing: bool,
    net: Netlink,
    underlay: Underlay,
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
    attrs: watch::Receiver<LeaseAttrs>,
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
        let VxlanSetup { iface, choice, network, vxlan, mtu: chosen } = setup;
        let mtu = overlay_mtu(&iface, &vxlan, chosen)?;
        let wanted = chosen.map(|mtu| u32::from(mtu) + ENCAP_OVERHEAD).or(vxlan.mtu.map(u32::from));
        if let Some(wanted) = wanted.filter(|wanted| *wanted > iface.mtu) {
            warn!(
                "an underlay MTU of {wanted} is more than the {} of interface {}: the overlay gets \
                 {mtu}; raise the interface's, or set Backend.MTU to it",
                iface.mtu, iface.name,
            );
        }
        // Before anything is made: no change is missed.
        let (connection, changes) = TableChanges::subscribe().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let (connection, net) = net::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let spec = DeviceSpec {
            name: format!("flannel.{vni}"),
            vni,
            port,
            learning,
            gbp,
            local: iface.addr,
            mtu: mtu.into(),
        };
        // Peers that know our address need no update after a reboot.
        let mac = previous.and_then(|attrs| vtep_mac(attrs).ok()).unwrap_or_else(Mac::random);
        let attrs = LeaseAttrs::udp(iface.public_ip);
        let addr = iface.addr;
        let mut underlay = Underlay::new(iface, choice);
        let lower = underlay.link(&net, None).await.map_err(BackendError::Kernel)?;
        let lower = lower.ok_or(BackendError::NoUnderlay { addr })?;
        let device = spec.ensure(&net, &lower, mac).await?;
        if !device.link.is_up {
            spec.bring_up(&net, &device.link).await?;
        }
        let attrs = advertise(attrs, vni, device.mac);
        let links = Links { overlay: Some(device.link.index), underlay: lower.index };
        underlay.says(attrs.clone());
        let (network, mac) = (network.network, device.mac);
        let prepared = PreparedVxlan {
            network,
            direct_routing,
            net,
            underlay,
            spec,
            links,
            mac,
            mtu,
            changes,
        };
        Ok((prepared, attrs))
    }

    async fn start(prepared: PreparedVxlan, lease: &Lease) -> Result<Self, BackendError> {
        let PreparedVxlan {
            network,
            direct_routing,
            net,
            mut underlay,
            spec,
            links,
            mac,
            mtu,
            changes,
        } = prepared;
        // The lease may have taken its time, and the device may be gone by now.
        let lower = underlay.link(&net, links.overlay).await.map_err(BackendError::Kernel)?;
        let lower = lower.ok_or(BackendError::NoUnderlay { addr: underlay.iface().addr })?;
        let spec = DeviceSpec { local: underlay.iface().addr, ..spec };
        let Device { link, .. } = spec.ensure(&net, &lower, mac).await?;
        let (own, addr) = (lease.subnet, lease.subnet.network());
        address(&net, &link, addr, network).await.map_err(BackendError::Kernel)?;
        if !link.is_up {
            spec.bring_up(&net, &link).await?;
        }
        let links = Links { overlay: Some(link.index), underlay: lower.index };
        let (connection, tables) = KernelTables::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        info!(device = %spec.name, mtu, "overlay device is up");
        let (name, attrs) = (spec.name.clone(), underlay.attrs());
        let host = VxlanHost {
            net,
            tables,
            changes,
            spec,
            mac,
            links,
            underlay,
            network,
            own,
            direct_routing,
        };
        let conditions = Conditions::ok(&CONDITIONS);
        let peers =
            PeerRoutes::start(BACKEND_TYPE, host, links, conditions, |tasks, reconciler| {
                tasks.spawn(reconciler.run());
            });
        Ok(Self { name, mtu, attrs, peers })
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

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.attrs.clone())
    }

    fn device(&self) -> String {
        self.name.clone()
    }

    fn num_peers(&self) -> usize {
        self.peers.num_peers()
    }
}
