//! The vxlan backend: the kernel's own tunnel, and three entries per peer.
//!
//! Behaves as flannel's `pkg/backend/vxlan`: the same device, entries and lease. Nothing is removed
//! at the end, so that packets keep flowing while no flanneld runs.

mod address;
mod device;
mod device_error;
mod host;
mod lease_data;
mod settings;

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::address::set_address;
use self::device::{Device, DeviceSpec};
use self::host::{CONDITIONS, VxlanHost};
use self::lease_data::{BACKEND_TYPE, advertise, vtep_mac};
use super::mtu::kernel_mtu;
use super::peer_routes::{
    Fixed, KernelForwarding, KernelTables, Links, Mac, PeerReconciler, TableChanges, Underlay,
};
use super::{Backend, BackendError, BackendSetup, Driver, Plan, Prepared, Preparing, Starting};
use crate::control::conditions::Conditions;
use crate::control::config::backend::VxlanConfig;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::host::net::Netlink;
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::error_chain::error_chain;

/// Bytes of the outer headers: Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5).
const ENCAP_OVERHEAD: u32 = 50;

/// The vxlan backend, configured.
#[derive(Debug)]
pub(super) struct VxlanDriver {
    iface: ExternalInterface,
    choice: IfaceChoice,
    network: Ipv4Network,
    config: VxlanConfig,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    mtu: Option<u16>,
}

/// The device, before there is a lease.
#[derive(Debug)]
struct VxlanPrepared {
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

impl VxlanDriver {
    /// The backend with these settings.
    pub(super) fn new(setup: BackendSetup, config: VxlanConfig) -> Self {
        let BackendSetup { iface, choice, network, mtu, .. } = setup;
        Self { iface, choice, network: network.v4.network, config, mtu }
    }

    /// MTU of the overlay, in bytes: `Backend.MTU`, or the interface's MTU, less the outer headers.
    fn overlay_mtu(&self) -> Result<u16, BackendError> {
        kernel_mtu(&self.iface, self.config.mtu, ENCAP_OVERHEAD, self.mtu)
    }

    fn warn_of_cut_mtu(&self, mtu: u16) {
        let by_flag = self.mtu.map(|mtu| u32::from(mtu) + ENCAP_OVERHEAD);
        let wanted = by_flag.or(self.config.mtu.map(u32::from));
        if let Some(wanted) = wanted.filter(|wanted| *wanted > self.iface.mtu) {
            warn!(
                "an underlay MTU of {wanted} is more than the {} of interface {}: the overlay gets \
                 {mtu}; raise the interface's, or set Backend.MTU to it",
                self.iface.mtu, self.iface.name,
            );
        }
    }

    fn device_spec(&self, mtu: u16) -> DeviceSpec {
        let VxlanConfig { vni, port, gbp, learning, .. } = self.config;
        DeviceSpec {
            name: format!("flannel.{vni}"),
            vni,
            port,
            learning,
            gbp,
            local: self.iface.addr,
            mtu: mtu.into(),
        }
    }

    /// Makes the device, or keeps the one that is there.
    async fn make(
        self,
        previous: Option<&LeaseAttrs>,
    ) -> Result<(VxlanPrepared, LeaseAttrs), BackendError> {
        let VxlanConfig { vni, port, gbp, learning, direct_routing, .. } = self.config;
        info!(
            "VXLAN config: VNI={vni} Port={} GBP={gbp} Learning={learning} \
             DirectRouting={direct_routing}",
            port.unwrap_or_default(),
        );
        let mtu = self.overlay_mtu()?;
        self.warn_of_cut_mtu(mtu);
        // Subscribe before anything is created, so that no change is missed.
        let (connection, changes) = TableChanges::subscribe().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let (connection, net) = net::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let spec = self.device_spec(mtu);
        // Peers that know our address need no update after a reboot.
        let mac = previous.and_then(|attrs| vtep_mac(attrs).ok()).unwrap_or_else(Mac::random);
        let Self { iface, choice, network, .. } = self;
        let (attrs, addr) = (LeaseAttrs::udp(iface.public_ip), iface.addr);
        let mut underlay = Underlay::new(iface, choice);
        let lower = underlay.link(&net, None).await.map_err(BackendError::Kernel)?;
        let lower = lower.ok_or(BackendError::NoUnderlay { addr })?;
        let device = spec.ensure(&net, &lower, mac).await?;
        if !device.link.is_up {
            spec.bring_up(&net, &device.link).await?;
        }
        let attrs = advertise(attrs, vni, device.mac);
        underlay.says(attrs.clone());
        let links = Links { overlay: Some(device.link.index), underlay: lower.index };
        let mac = device.mac;
        let prepared = VxlanPrepared {
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
}

impl Driver for VxlanDriver {
    fn public_ip(&self) -> Ipv4Addr {
        self.iface.public_ip
    }

    fn plan(&self) -> Plan {
        let mtu = self.overlay_mtu();
        let device = mtu.as_ref().ok().map(|mtu| format!("flannel.{}, MTU {mtu}", self.config.vni));
        let port = self.config.port;
        let port = port.map_or("the kernel's port, 8472".to_owned(), |port| port.to_string());
        let listen = Some(format!("UDP {port}, by the kernel"));
        Plan { device, listen, problems: mtu.err().iter().map(|it| error_chain(it)).collect() }
    }

    fn prepare<'a>(self: Box<Self>, previous: Option<&'a LeaseAttrs>) -> Preparing<'a> {
        Box::pin(async move {
            let (prepared, attrs) = self.make(previous).await?;
            Ok((Box::new(prepared) as Box<dyn Prepared>, attrs))
        })
    }
}

impl Prepared for VxlanPrepared {
    fn start<'a>(self: Box<Self>, lease: &'a Lease) -> Starting<'a> {
        Box::pin(async move {
            let backend = self.run(lease).await?;
            Ok(Box::new(backend) as Box<dyn Backend>)
        })
    }
}

impl VxlanPrepared {
    /// Gives the device its address, and starts the reconciler.
    async fn run(self, lease: &Lease) -> Result<KernelForwarding, BackendError> {
        let Self { network, direct_routing, net, mut underlay, spec, links, mac, mtu, changes } =
            self;
        // Acquiring the lease may have taken long; the device may be deleted by now.
        let lower = underlay.link(&net, links.overlay).await.map_err(BackendError::Kernel)?;
        let lower = lower.ok_or(BackendError::NoUnderlay { addr: underlay.iface().addr })?;
        let spec = DeviceSpec { local: underlay.iface().addr, ..spec };
        let Device { link, .. } = spec.ensure(&net, &lower, mac).await?;
        let (own, addr) = (lease.subnet, lease.subnet.network());
        set_address(&net, &link, addr, network).await.map_err(BackendError::Kernel)?;
        if !link.is_up {
            spec.bring_up(&net, &link).await?;
        }
        let links = Links { overlay: Some(link.index), underlay: lower.index };
        let (connection, tables) = KernelTables::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        info!(device = %spec.name, mtu, "overlay device is up");
        info!("watching for new subnet leases");
        let (device, attrs) = (spec.name.clone(), underlay.attrs());
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
        let fixed = Fixed { kind: BACKEND_TYPE, device, mtu, attrs, ignored };
        let conditions = Conditions::ok(&CONDITIONS);
        let run = |tasks: &mut JoinSet<()>, reconciler: PeerReconciler<_>| {
            tasks.spawn(reconciler.run());
        };
        Ok(KernelForwarding::start(fixed, host, links, conditions, run))
    }
}

/// Stock's line for a lease of another backend.
fn ignored(lease: &Lease) -> String {
    let kind = lease.attrs.backend_type.as_deref().unwrap_or_default();
    let (subnet, host) = (lease.subnet, lease.attrs.public_ip());
    format!("ignoring non-vxlan v4Subnet({subnet}): type={kind}, PublicIP: {host}")
}
