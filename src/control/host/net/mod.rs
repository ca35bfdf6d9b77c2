//! The kernel's side of routing: link, address and route of the overlay device.
//!
//! [`HostNet`] is what a backend may change on the host; [`Netlink`] does it to the real one, the
//! twin in `memory` to a map. [`OverlayLink`] is the desired device, [`HostChanges`] says
//! when to compare again. The kernel removes all of it with the device, so that clean-up only deletes the
//! device. Which interface carries the underlay is chosen elsewhere, in `control::host::iface`.

mod census;
mod changes;
mod container_routes;
mod far_ends;
mod filters;
mod forwarded;
mod ipsec;
mod marked_routes;
mod matched;
#[cfg(test)]
pub mod memory;
mod neighbours;
mod netlink;
mod one_route;
mod overlay;
mod route_message;
mod scan;
mod traffic_control;

use std::io;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

pub use self::census::{LinkDetails, RouteDetails, all_links, routes_about};
pub use self::changes::{HostChange, HostChanges, watch};
pub use self::container_routes::ContainerRoutes;
pub use self::far_ends::{FarEnd, far_ends};
pub use self::forwarded::{Forwarded, PolicyRule};
pub use self::ipsec::num_ipsec_policies;
pub use self::marked_routes::ROUTE_PROTOCOL;
pub(crate) use self::marked_routes::any_main_route;
pub use self::neighbours::{Mac, Neighbour, NeighbourKind};
pub use self::netlink::{Netlink, connect};
pub(crate) use self::netlink::{failed, link_of};
pub use self::overlay::{Drift, OverlayLink, Reconciled, configure, reconcile};
pub use self::route_message::RouteFields;
pub use self::scan::{RoutesInside, default_routes, routes_inside};
pub use self::traffic_control::{TrafficControl, TrafficHook};

/// A link of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name, such as `flannel0`.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is to be up.
    pub is_up: bool,
    /// Whether it has a carrier: a link without a cable is up and has none.
    pub has_carrier: bool,
}

/// Where the kernel would send a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the link of this number.
    Link(u32),
    /// Nowhere: the destination is an address of this host.
    Here,
    /// To all hosts of a link.
    Broadcast,
    /// To a group of hosts.
    Multicast,
}

/// A route in the host's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destinations that take it.
    pub dst: Ipv4Network,
    /// Index of the link that all its next hops leave by; `None` if there are several, or none.
    pub link: Option<u32>,
    /// The kernel's priority: of two routes to one destination the lower is taken.
    pub metric: u32,
}

/// An IPv4 address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddr {
    /// The address.
    pub addr: Ipv4Addr,
    /// Length of the prefix that the link is taken to reach by it.
    pub prefix_len: u8,
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
    pub(crate) fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
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

    /// Finds a link by the kernel's number for it; `None` if there is none.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn link_at(&self, index: u32) -> Result<Option<Link>, KernelError>;

    /// Lists the IPv4 addresses of the link with this number; none if there is no such link.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn addrs_of(&self, index: u32) -> Result<Vec<LinkAddr>, KernelError>;

    /// The number of the link that has the address `addr`. Goes through the addresses of all links.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn owner_of(&self, addr: Ipv4Addr) -> Result<Option<u32>, KernelError>;

    /// Gives `link` the address `addr/32`, scope global, without a broadcast address.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses, also because the link has the address.
    async fn add_addr(&self, link: &Link, addr: Ipv4Addr) -> Result<(), KernelError>;

    /// Sets the MTU, in bytes.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), KernelError>;

    /// Sets the length of the transmit queue, in packets.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn set_txqueuelen(&self, link: &Link, txqueuelen: u32) -> Result<(), KernelError>;

    /// Has `link`, which is down, get no IPv6 address by itself when it comes up.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses, also because it has no IPv6.
    async fn set_no_ipv6_addr(&self, link: &Link) -> Result<(), KernelError>;

    /// Brings `link` up.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn set_up(&self, link: &Link) -> Result<(), KernelError>;

    /// Adds a unicast route to `dst` by `link`, metric 0, as the protocol `boot`.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses for another reason than that a route exists.
    async fn add_route(&self, dst: Ipv4Network, link: &Link) -> Result<RouteAdded, KernelError>;

    /// Puts a unicast route to `dst` by `link`, as [`add_route`](Self::add_route) would add it, in
    /// the place of the one there is.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    async fn replace_route(&self, dst: Ipv4Network, link: &Link) -> Result<(), KernelError>;

    /// Whether the main table has a unicast route of metric 0 to exactly `dst` by `link`, as far as
    /// possible without going through the table.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn has_route(&self, dst: Ipv4Network, link: &Link) -> Result<bool, KernelError>;
}
