//! The host-gw backend: one plain route per peer, by the external interface.
//!
//! Parity is with flannel's `pkg/backend/hostgw`, and with its ten seconds of repair. The routes
//! have a protocol number of their own, [`ROUTE_PROTOCOL`](super::peer_routes::ROUTE_PROTOCOL), so
//! that nothing foreign is touched.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tokio::sync::watch;
use tracing::info;

use super::peer_routes::{
    Entries, Hop, KernelTables, Links, PeerEntries, PeerHost, PeerRoutes, TableChanges, Underlay,
    Via, check_host, underlay_condition,
};
use super::{Backend, BackendError, kernel_mtu};
use crate::control::conditions::Conditions;
use crate::control::config::network::NetworkConfig;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::host::net::Netlink;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};

/// `BackendType` of our leases. Stock compares it letter by letter.
const BACKEND_TYPE: &str = "host-gw";

/// What the host-gw backend must know.
#[derive(Debug, Clone)]
pub struct HostGwSetup {
    /// Carries the packets as they are.
    pub iface: ExternalInterface,
    /// How it was chosen, to choose again when its address is gone.
    pub choice: IfaceChoice,
    /// The overlay.
    pub network: NetworkConfig,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    pub mtu: Option<u16>,
}

/// The running host-gw backend.
#[derive(Debug)]
pub struct HostGwBackend {
    name: String,
    mtu: u16,
    attrs: watch::Receiver<LeaseAttrs>,
    peers: PeerRoutes,
}

/// MTU of the overlay, in bytes: that of the interface.
///
/// # Errors
/// [`BackendError::SmallMtu`].
pub(in crate::control) fn overlay_mtu(
    iface: &ExternalInterface,
    chosen: Option<u16>,
) -> Result<u16, BackendError> {
    kernel_mtu(iface, None, 0, chosen)
}

/// Peers route to the address in our lease, so it must be the one on the interface.
///
/// # Errors
/// [`BackendError::BehindNat`].
pub(in crate::control) fn check_public_ip(iface: &ExternalInterface) -> Result<(), BackendError> {
    let ExternalInterface { name, addr, public_ip, .. } = iface;
    if addr == public_ip {
        return Ok(());
    }
    Err(BackendError::BehindNat { public_ip: *public_ip, addr: *addr, name: name.clone() })
}

impl Backend for HostGwBackend {
    type Setup = HostGwSetup;
    type Prepared = (HostGwSetup, u16, LeaseAttrs);

    fn public_ip(setup: &HostGwSetup) -> Ipv4Addr {
        setup.iface.public_ip
    }

    async fn prepare(
        setup: HostGwSetup,
        _previous: Option<&LeaseAttrs>,
    ) -> Result<(Self::Prepared, LeaseAttrs), BackendError> {
        check_public_ip(&setup.iface)?;
        let mtu = overlay_mtu(&setup.iface, setup.mtu)?;
        let attrs = LeaseAttrs {
            backend_type: Some(BACKEND_TYPE.to_owned()),
            ..LeaseAttrs::udp(setup.iface.public_ip)
        };
        Ok(((setup, mtu, attrs.clone()), attrs))
    }

    async fn start(
        (setup, mtu, attrs): Self::Prepared,
        lease: &Lease,
    ) -> Result<Self, BackendError> {
        let (connection, changes) = TableChanges::subscribe().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let (connection, net) = net::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let (connection, tables) = KernelTables::connect().map_err(BackendError::Kernel)?;
        tokio::spawn(connection);
        let HostGwSetup { iface, choice, network, .. } = setup;
        let (name, addr) = (iface.name.clone(), iface.addr);
        let mut underlay = Underlay::new(iface, choice).direct();
        underlay.says(attrs);
        let link = underlay.link(&net, None).await.map_err(BackendError::Kernel)?;
        let link = link.ok_or(BackendError::NoUnderlay { addr })?;
        info!(interface = %link.name, mtu, "peers get routes by the external interface");
        let links = Links { overlay: None, underlay: link.index };
        let attrs = underlay.attrs();
        let network = network.network;
        let host = HostGwHost { net, tables, changes, links, underlay, network, own: lease.subnet };
        let conditions = Conditions::ok(&["underlay", "peers"]);
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

/// What the reconciler needs of a host-gw node.
#[derive(Debug)]
struct HostGwHost {
    net: Netlink,
    tables: KernelTables,
    changes: TableChanges,
    links: Links,
    underlay: Underlay,
    network: Ipv4Network,
    own: Ipv4Network,
}

impl PeerHost for HostGwHost {
    type Tables = KernelTables;

    fn tables(&self) -> &KernelTables {
        &self.tables
    }

    fn network(&self) -> Ipv4Network {
        self.network
    }

    fn own(&self) -> Ipv4Network {
        self.own
    }

    async fn reconcile_links(
        &mut self,
        conditions: &mut Conditions,
    ) -> Result<Links, BackendError> {
        let link = self.underlay.link(&self.net, None).await.map_err(BackendError::Kernel)?;
        let iface = self.underlay.iface();
        conditions.set("underlay", underlay_condition(iface, link.as_ref()));
        let link = link.ok_or(BackendError::NoUnderlay { addr: iface.addr })?;
        self.links = Links { overlay: None, underlay: link.index };
        Ok(self.links)
    }

    async fn peer(&self, _: Ipv4Network, attrs: &LeaseAttrs) -> Result<PeerEntries, String> {
        let gateway = attrs.public_ip;
        check_host(self.underlay.iface(), gateway)?;
        self.check_on_link(gateway).await?;
        Ok(PeerEntries { hop: Hop { gateway, via: Via::Underlay }, vtep: None })
    }

    async fn changed(&mut self, there: &Entries) {
        self.changes.next(self.links, there).await;
    }

    fn drain_changes(&mut self) {
        self.changes.drain();
    }
}

impl HostGwHost {
    /// The kernel takes no gateway that needs another one.
    async fn check_on_link(&self, gateway: Ipv4Addr) -> Result<(), String> {
        let name = &self.underlay.iface().name;
        match self.tables.on_link(gateway).await {
            Ok(Some(link)) if link == self.links.underlay => Ok(()),
            // The network is gone while the interface is down, and comes back with it.
            Err(_) => Err(format!("there is no route to its PublicIP {gateway}")),
            Ok(_) => Err(format!(
                "its PublicIP {gateway} is not on a network of {name}: host-gw needs all nodes in \
                 one layer-2 network; set Backend.Type to vxlan or udp for all nodes"
            )),
        }
    }
}
