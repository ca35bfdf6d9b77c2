//! This node: what it sends from, and how its packets travel.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{LeaseFact, RegistryFacts};
use crate::control::config::backend::{BackendConfig, UdpConfig, VxlanConfig};
use crate::control::config::network::NetworkConfig;
use crate::control::host::iface::ExternalInterface;
use crate::control::host::net::LinkDetails;

/// The kernel's port for vxlan if none is set: `udp_port` of drivers/net/vxlan, which predates IANA's.
const VXLAN_PORT: u16 = 8472;

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Own {
    /// Address on the underlay, which outer packets come from.
    pub(in crate::control::cli) addr: Ipv4Addr,
    /// What peers send to.
    pub(in crate::control::cli) public_ip: Ipv4Addr,
    pub(in crate::control::cli) network: Ipv4Network,
    /// Our lease.
    pub(in crate::control::cli) subnet: Option<Ipv4Network>,
    /// The overlay device, if it is there: with it the overlay can be used.
    pub(in crate::control::cli) device: Option<Device>,
    pub(in crate::control::cli) wire: Wire,
}

/// The overlay device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Device {
    pub(in crate::control::cli) name: String,
    pub(in crate::control::cli) mtu: u16,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control::cli) enum Wire {
    /// In datagrams, by flanneld itself.
    Udp { port: u16 },
    /// In datagrams, by the kernel.
    Vxlan { port: u16 },
    /// As they are, to the peer itself.
    Plain,
    /// As they are, to the cloud's router.
    Cloud,
}

impl Wire {
    pub(in crate::control::cli) fn of(backend: &BackendConfig) -> Self {
        if let BackendConfig::Udp(UdpConfig { port, .. }) = backend {
            Self::Udp { port: *port }
        } else if let BackendConfig::Vxlan(VxlanConfig { port, .. }) = backend {
            Self::Vxlan { port: port.unwrap_or(VXLAN_PORT) }
        } else if *backend == BackendConfig::HostGw {
            Self::Plain
        } else {
            Self::Cloud
        }
    }

    /// Whether packets between nodes are in outer ones, and the overlay has a device.
    pub(in crate::control::cli) const fn is_tunnel(self) -> bool {
        matches!(self, Self::Udp { .. } | Self::Vxlan { .. })
    }

    /// The UDP port of all nodes.
    pub(in crate::control::cli) const fn port(self) -> Option<u16> {
        match self {
            Self::Udp { port } | Self::Vxlan { port } => Some(port),
            Self::Plain | Self::Cloud => None,
        }
    }

    /// Length of what is before an inner packet in an outer one, in bytes: as in the backends.
    pub(in crate::control::cli) const fn overhead(self) -> u16 {
        match self {
            Self::Udp { .. } => 28,
            Self::Vxlan { .. } => 50,
            Self::Plain | Self::Cloud => 0,
        }
    }

    /// By how much flanneld itself lowers the TTL on the way to a peer's kernel.
    pub(in crate::control::cli) const fn ttl_cost(self) -> u8 {
        match self {
            Self::Udp { .. } => 2,
            Self::Vxlan { .. } | Self::Plain | Self::Cloud => 0,
        }
    }
}

impl Own {
    /// This node in `network`, with the interface that it joins by.
    pub(in crate::control::cli) fn find(
        network: &NetworkConfig,
        iface: &ExternalInterface,
        registry: &RegistryFacts,
        previous: Option<Ipv4Network>,
        links: &[LinkDetails],
    ) -> Self {
        let wire = Wire::of(&network.backend);
        let ours = registry.leases.iter().filter(|lease| lease.public_ip == iface.public_ip);
        let ours: Vec<&LeaseFact> = ours.collect();
        let is_previous = |lease: &&&LeaseFact| Some(lease.subnet) == previous;
        // Another host may have our public IP: ours is the lease that a device of this host is for.
        let has_device =
            |lease: &&&LeaseFact| links.iter().any(|it| it.has(lease.subnet.network()));
        let lease = ours.iter().find(is_previous).or_else(|| ours.iter().find(has_device));
        let lease = lease.or_else(|| ours.first());
        let subnet = lease.map(|lease| lease.subnet).or(previous);
        let device = subnet.and_then(|subnet| device(wire, subnet, iface, links));
        let (addr, public_ip, network) = (iface.addr, iface.public_ip, network.v4.network);
        Self { addr, public_ip, network, subnet, device, wire }
    }

    /// Our address on the overlay.
    pub(in crate::control::cli) fn overlay_addr(&self) -> Option<Ipv4Addr> {
        if self.wire.is_tunnel() {
            self.device.as_ref().and(self.subnet).map(|subnet| subnet.network())
        } else {
            Some(self.addr)
        }
    }

    /// The address at which the node that has `subnet` answers: flannel's device, or with plain
    /// routes, which need none, the bridge of its containers.
    pub(in crate::control::cli) fn node_addr(&self, subnet: Ipv4Network) -> Ipv4Addr {
        let bridge = u32::from(!self.wire.is_tunnel());
        Ipv4Addr::from_bits(subnet.network().to_bits() | bridge)
    }
}

/// The overlay device is the one that has the first address of our subnet.
fn device(
    wire: Wire,
    subnet: Ipv4Network,
    iface: &ExternalInterface,
    links: &[LinkDetails],
) -> Option<Device> {
    if !wire.is_tunnel() {
        let mtu = u16::try_from(iface.mtu).unwrap_or(u16::MAX);
        return Some(Device { name: iface.name.clone(), mtu });
    }
    let found = links.iter().find(|it| it.has(subnet.network()) && it.link.is_up)?;
    let mtu = u16::try_from(found.link.mtu).unwrap_or(u16::MAX);
    Some(Device { name: found.link.name.clone(), mtu })
}
