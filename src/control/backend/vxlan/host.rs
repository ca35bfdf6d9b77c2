//! [`VxlanHost`]: what the reconciler needs of a vxlan node: the device, and what each peer's lease
//! asks for.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::address::{set_address, set_mac};
use super::device::{Device, DeviceSpec};
use super::device_error::DeviceError;
use super::lease_data::vtep_mac;
use crate::control::backend::BackendError;
use crate::control::backend::peer_routes::{
    Entries, Hop, KernelTables, Links, Mac, PeerEntries, PeerHost, TableChanges, Underlay, Via,
    check_host, underlay_condition,
};
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::net::{Link, Netlink};
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::error_chain::error_chain;

/// Names of the conditions.
pub(super) const CONDITIONS: [&str; 3] = ["device", "underlay", "peers"];

/// A vxlan node's host.
#[derive(Debug)]
pub(super) struct VxlanHost {
    pub(super) net: Netlink,
    pub(super) tables: KernelTables,
    pub(super) changes: TableChanges,
    pub(super) spec: DeviceSpec,
    /// The device's address, which our lease advertises.
    pub(super) mac: Mac,
    /// The device as it was last seen, and the external interface's number.
    pub(super) links: Links,
    pub(super) underlay: Underlay,
    pub(crate) network: Ipv4Network,
    /// The subnet of our lease.
    pub(super) own: Ipv4Network,
    /// Peers on a network of the external interface's get plain routes.
    pub(super) direct_routing: bool,
}

impl VxlanHost {
    /// The device, after its repair.
    async fn device(&mut self, underlay: &Link) -> Result<Device, DeviceError> {
        let before = self.links.overlay;
        let mut device = self.spec.ensure(&self.net, underlay, self.mac).await?;
        if device.mac != self.mac {
            tracing::warn!(
                "{} had address {}, and peers send to {}; restored",
                self.spec.name,
                device.mac,
                self.mac,
            );
            set_mac(&self.net, &device.link, self.mac).await?;
            device.mac = self.mac;
        }
        let is_other = before != Some(device.link.index);
        let mut changed =
            set_address(&self.net, &device.link, self.own.network(), self.network).await?;
        if !device.link.is_up {
            self.spec.bring_up(&self.net, &device.link).await?;
            changed = true;
        }
        if is_other {
            tracing::warn!("VXLAN device {} recreated successfully", self.spec.name);
        } else if changed {
            tracing::warn!("{} was down or had another address; restored", self.spec.name);
        }
        Ok(device)
    }
}

impl PeerHost for VxlanHost {
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
        let link = self.underlay.link(&self.net, self.links.overlay).await;
        let link = link.map_err(BackendError::Kernel)?;
        let iface = self.underlay.iface();
        self.spec.local = iface.addr;
        conditions.set("underlay", underlay_condition(iface, link.as_ref()));
        // The device goes with the link below it, and comes back with it.
        let Some(link) = link else {
            let missing = format!("it needs interface {}", iface.name);
            conditions.set("device", Condition::Failed(missing));
            return Err(BackendError::NoUnderlay { addr: iface.addr });
        };
        match self.device(&link).await {
            Ok(device) => {
                conditions.set("device", Condition::Ok);
                self.links = Links { overlay: Some(device.link.index), underlay: link.index };
                Ok(self.links)
            }
            Err(error) => {
                conditions.set("device", Condition::Failed(error_chain(&error)));
                Err(error.into())
            }
        }
    }

    async fn peer(&self, subnet: Ipv4Network, attrs: &LeaseAttrs) -> Result<PeerEntries, String> {
        let host = attrs.public_ip();
        check_host(self.underlay.iface(), host)?;
        if self.direct_routing && self.is_on_link(host).await {
            let hop = Hop { gateway: host, via: Via::Underlay };
            return Ok(PeerEntries { hop, vtep: None });
        }
        let mac = vtep_mac(attrs).map_err(|error| error.to_string())?;
        if mac == self.mac {
            return Err(format!("its VtepMAC {mac} is our own: delete {} there", self.spec.name));
        }
        let hop = Hop { gateway: subnet.network(), via: Via::Overlay };
        Ok(PeerEntries { hop, vtep: Some((mac, host)) })
    }

    fn log_added(&self, subnet: Ipv4Network, peer: &PeerEntries) {
        match peer.vtep {
            Some((mac, host)) => {
                tracing::debug!("adding subnet: {subnet} PublicIP: {host} VtepMAC: {mac}");
            }
            None => tracing::debug!(
                "Adding direct route to subnet: {subnet} PublicIP: {}",
                peer.hop.gateway
            ),
        }
    }

    fn log_removed(&self, subnet: Ipv4Network) {
        tracing::debug!("removing subnet: {subnet}");
    }

    async fn changed(&mut self, there: &Entries) {
        self.changes.next(self.links, there).await;
    }

    fn drain_changes(&mut self) {
        self.changes.drain();
    }
}

impl VxlanHost {
    /// Whether `host` is on a network of the external interface. Where the kernel cannot say, the
    /// tunnel is taken, as stock does.
    async fn is_on_link(&self, host: Ipv4Addr) -> bool {
        matches!(self.tables.on_link(host).await, Ok(Some(link)) if link == self.links.underlay)
    }
}
