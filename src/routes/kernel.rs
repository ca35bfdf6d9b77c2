//! The kernel's side of routing: link, address and route of the overlay device.
//!
//! [`HostNet`] is what a backend may change on the host; [`Netlink`] does it to the real one, the
//! twin in `memory` to a map. Everything here goes with the device: no clean-up is needed beyond
//! deleting it. Which interface carries the underlay is chosen elsewhere, in `control::iface`.

#[cfg(test)]
pub mod memory;
mod netlink;

use std::io;
use std::net::Ipv4Addr;

use tracing::warn;

pub(crate) use self::netlink::failed;
pub use self::netlink::{Netlink, connect};
use super::Subnet;

/// A link of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name, such as `flannel0`.
    pub name: String,
}

/// A route in the host's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destinations that take it.
    pub dst: Subnet,
    /// Index of the link it leaves by; `None` for a route with several, or with none.
    pub link: Option<u32>,
    /// The kernel's priority: of two routes to one destination the lower is taken.
    pub metric: u32,
}

/// What became of a route that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteAdded {
    /// It is in the table now.
    Added,
    /// The table had a route to this destination already, by this link or another.
    Exists,
}

/// Why the kernel's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct KernelError {
    /// What was tried, on what: `add address 10.1.15.0/32 to flannel0`.
    pub operation: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl KernelError {
    fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { operation: operation.into(), source: source.into() }
    }
}

/// The host's links, addresses and routes, as far as a backend needs them.
#[expect(async_fn_in_trait, reason = "all callers run on one thread: no bound is wanted")]
pub trait HostNet {
    /// Finds a link by name.
    ///
    /// # Errors
    /// [`KernelError`] when there is none.
    async fn link(&self, name: &str) -> Result<Link, KernelError>;

    /// Gives `link` the address `addr/32`, scope global, without a broadcast address.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses, also because the link has the address.
    async fn add_addr(&self, link: &Link, addr: Ipv4Addr) -> Result<(), KernelError>;

    /// Sets the MTU in bytes and the transmit queue's length in packets.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn set_sizes(&self, link: &Link, mtu: u32, txqueuelen: u32) -> Result<(), KernelError>;

    /// Brings `link` up.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn set_up(&self, link: &Link) -> Result<(), KernelError>;

    /// Adds a unicast route to `dst` by `link`, metric 0, as the protocol `boot`.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses for another reason than that a route exists.
    async fn add_route(&self, dst: Subnet, link: &Link) -> Result<RouteAdded, KernelError>;

    /// Lists the IPv4 unicast routes of the main table, in the kernel's order.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn routes(&self) -> Result<Vec<KernelRoute>, KernelError>;
}

/// The overlay device as the kernel is to see it.
#[derive(Debug, Clone)]
pub struct OverlayLink<'a> {
    /// Name of the device, which exists.
    pub name: &'a str,
    /// Its only IPv4 address: the network address of our lease, so that what the host itself
    /// sends into the overlay has a source of ours.
    pub addr: Ipv4Addr,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// The whole overlay, routed into it.
    pub network: Subnet,
}

/// Packets the kernel holds for one queue of the device until a worker reads them. A TUN device
/// starts with 500 (`TUN_READQ_SIZE` in `drivers/net/tun.c`), less than two bursts of one flow;
/// 1000 is what Ethernet links have (`DEFAULT_TX_QUEUE_LEN` in `include/net/pkt_sched.h`).
const TX_QUEUE_LEN: u32 = 1000;

/// Sets up the overlay device: address, sizes, up, route, in the order of flannel's
/// `pkg/backend/udp/udp_network_amd64.go`.
///
/// # Errors
/// [`KernelError`] naming the step that failed.
pub async fn configure(net: &impl HostNet, overlay: &OverlayLink<'_>) -> Result<(), KernelError> {
    let link = net.link(overlay.name).await?;
    net.add_addr(&link, overlay.addr).await?;
    net.set_sizes(&link, overlay.mtu.into(), TX_QUEUE_LEN).await?;
    net.set_up(&link).await?;
    match net.add_route(overlay.network, &link).await? {
        RouteAdded::Added => Ok(()),
        RouteAdded::Exists => warn_of_foreign_route(net, overlay.network, &link).await,
    }
}

/// Like flannel we go on beside an existing route; unlike it we say that it takes our packets.
async fn warn_of_foreign_route(
    net: &impl HostNet,
    network: Subnet,
    link: &Link,
) -> Result<(), KernelError> {
    let routes = net.routes().await?;
    let ours = |route: &&KernelRoute| route.dst == network && route.metric == 0;
    if routes.iter().find(ours).is_some_and(|route| route.link != Some(link.index)) {
        warn!(
            %network, device = link.name,
            "the route to the network exists by another link: delete it, or its packets miss us"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::memory::{MemoryNet, at_once};
    use super::*;

    fn overlay() -> OverlayLink<'static> {
        OverlayLink {
            name: "flannel0",
            addr: Ipv4Addr::new(10, 1, 15, 0),
            mtu: 1472,
            network: "10.1.0.0/16".parse().unwrap(),
        }
    }

    #[test]
    fn overlay_device_gets_address_sizes_and_the_network_route() {
        let net = MemoryNet::with_links(["eth0", "flannel0"]);
        at_once(configure(&net, &overlay())).unwrap();
        let device = net.state("flannel0");
        assert_eq!(device.addrs, [Ipv4Addr::new(10, 1, 15, 0)]);
        assert_eq!((device.mtu, device.txqueuelen, device.up), (1472, 1000, true));
        let route = KernelRoute { dst: overlay().network, link: Some(2), metric: 0 };
        assert_eq!(at_once(net.routes()).unwrap(), [route]);
    }

    #[test]
    fn route_by_another_link_is_left_alone() {
        let net = MemoryNet::with_links(["eth0", "flannel0"]);
        let eth0 = at_once(net.link("eth0")).unwrap();
        at_once(net.set_up(&eth0)).unwrap();
        at_once(net.add_route(overlay().network, &eth0)).unwrap();
        at_once(configure(&net, &overlay())).unwrap();
        let route = KernelRoute { dst: overlay().network, link: Some(1), metric: 0 };
        assert_eq!(at_once(net.routes()).unwrap(), [route]);
    }

    #[test]
    fn missing_device_is_an_error_that_names_it() {
        let error = at_once(configure(&MemoryNet::with_links(["eth0"]), &overlay())).unwrap_err();
        assert_eq!(error.to_string(), "find link flannel0");
    }
}
