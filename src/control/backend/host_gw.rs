//! The host-gw backend: one plain route per peer, by the external interface.
//!
//! Behaves as flannel's `pkg/backend/hostgw`, which also repairs every ten seconds. The routes have
//! their own protocol number, [`ROUTE_PROTOCOL`](net::ROUTE_PROTOCOL), so that no other route is
//! changed.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tokio::task::JoinSet;
use tracing::info;

use super::mtu::kernel_mtu;
use super::peer_routes::{
    Entries, Fixed, Hop, KernelForwarding, KernelTables, Links, PeerEntries, PeerHost,
    PeerReconciler, TableChanges, Underlay, Via, check_host, underlay_condition,
};
use super::{Backend, BackendError, BackendSetup, Driver, Plan, Prepared, Preparing, Starting};
use crate::control::conditions::Conditions;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::host::net::Netlink;
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::error_chain::error_chain;

/// `BackendType` of our leases. Stock compares it letter by letter.
const BACKEND_TYPE: &str = "host-gw";

/// The host-gw backend, configured.
#[derive(Debug)]
pub(super) struct HostGwDriver {
    iface: ExternalInterface,
    choice: IfaceChoice,
    network: Ipv4Network,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    mtu: Option<u16>,
}

/// The same with the attributes of its lease; it holds no resource of the host.
#[derive(Debug)]
struct HostGwPrepared {
    driver: HostGwDriver,
    mtu: u16,
    attrs: LeaseAttrs,
}

impl HostGwDriver {
    /// The backend with these settings.
    pub(super) fn new(setup: BackendSetup) -> Self {
        let BackendSetup { iface, choice, network, mtu, .. } = setup;
        Self { iface, choice, network: network.v4.network, mtu }
    }

    /// MTU of the overlay, in bytes: that of the interface.
    fn overlay_mtu(&self) -> Result<u16, BackendError> {
        kernel_mtu(&self.iface, None, 0, self.mtu)
    }

    /// Peers route to the address in our lease, so it must be the one on the interface.
    fn check_public_ip(&self) -> Result<(), BackendError> {
        let ExternalInterface { name, addr, public_ip, .. } = &self.iface;
        if addr == public_ip {
            return Ok(());
        }
        Err(BackendError::BehindNat { public_ip: *public_ip, addr: *addr, name: name.clone() })
    }
}

impl Driver for HostGwDriver {
    fn public_ip(&self) -> Ipv4Addr {
        self.iface.public_ip
    }

    fn plan(&self) -> Plan {
        let (checked, mtu) = (self.check_public_ip(), self.overlay_mtu());
        let name = &self.iface.name;
        let device = mtu.as_ref().ok().map(|mtu| format!("none: routes by {name}, MTU {mtu}"));
        let problems = checked.err().into_iter().chain(mtu.err());
        Plan { device, listen: None, problems: problems.map(|error| error_chain(&error)).collect() }
    }

    fn prepare<'a>(self: Box<Self>, _previous: Option<&'a LeaseAttrs>) -> Preparing<'a> {
        Box::pin(async move {
            self.check_public_ip()?;
            let mtu = self.overlay_mtu()?;
            let attrs = LeaseAttrs {
                backend_type: Some(BACKEND_TYPE.to_owned()),
                ..LeaseAttrs::udp(self.iface.public_ip)
            };
            let prepared = HostGwPrepared { driver: *self, mtu, attrs: attrs.clone() };
            Ok((Box::new(prepared) as Box<dyn Prepared>, attrs))
        })
    }
}

impl Prepared for HostGwPrepared {
    fn start<'a>(self: Box<Self>, lease: &'a Lease) -> Starting<'a> {
        Box::pin(async move {
            let Self { driver: HostGwDriver { iface, choice, network, .. }, mtu, attrs } = *self;
            let (connection, changes) = TableChanges::subscribe().map_err(BackendError::Kernel)?;
            tokio::spawn(connection);
            let (connection, net) = net::connect().map_err(BackendError::Kernel)?;
            tokio::spawn(connection);
            let (connection, tables) = KernelTables::connect().map_err(BackendError::Kernel)?;
            tokio::spawn(connection);
            let (device, addr) = (iface.name.clone(), iface.addr);
            let mut underlay = Underlay::new(iface, choice).direct();
            underlay.says(attrs);
            let link = underlay.link(&net, None).await.map_err(BackendError::Kernel)?;
            let link = link.ok_or(BackendError::NoUnderlay { addr })?;
            info!(interface = %link.name, mtu, "peers get routes by the external interface");
            let links = Links { overlay: None, underlay: link.index };
            let fixed = Fixed { kind: BACKEND_TYPE, device, mtu, attrs: underlay.attrs(), ignored };
            let own = lease.subnet;
            let host = HostGwHost { net, tables, changes, links, underlay, network, own };
            let conditions = Conditions::ok(&["underlay", "peers"]);
            let run = |tasks: &mut JoinSet<()>, reconciler: PeerReconciler<_>| {
                tasks.spawn(reconciler.run());
            };
            let backend = KernelForwarding::start(fixed, host, links, conditions, run);
            Ok(Box::new(backend) as Box<dyn Backend>)
        })
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
        let gateway = attrs.public_ip();
        check_host(self.underlay.iface(), gateway)?;
        self.check_on_link(gateway).await?;
        Ok(PeerEntries { hop: Hop { gateway, via: Via::Underlay }, vtep: None })
    }

    fn log_added(&self, subnet: Ipv4Network, peer: &PeerEntries) {
        info!("Subnet added: {subnet} via {}", peer.hop.gateway);
    }

    fn log_removed(&self, subnet: Ipv4Network) {
        info!("Subnet removed: {subnet}");
    }

    async fn changed(&mut self, there: &Entries) {
        self.changes.next(self.links, there).await;
    }

    fn drain_changes(&mut self) {
        self.changes.drain();
    }
}

/// Stock's line for a lease of another backend.
fn ignored(lease: &Lease) -> String {
    let kind = lease.attrs.backend_type.as_deref().unwrap_or_default();
    let (subnet, host) = (lease.subnet, lease.attrs.public_ip());
    format!("Ignoring non-host-gw subnet: type={kind} ({subnet} of {host})")
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
