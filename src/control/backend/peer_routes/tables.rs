//! trait [`Tables`]: the kernel's neighbours, forwarding database and routes; [`KernelTables`] are
//! the real ones.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::Handle;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::sys::AsyncSocket;

use super::entries::{Change, Entries, Hop, Via};
use super::mac::Mac;
use crate::control::host::net::{KernelError, RouteFields, failed};

/// The protocol number of our routes by the external interface, in the range that
/// `include/uapi/linux/rtnetlink.h` leaves to user space; nobody listed in
/// `/etc/iproute2/rt_protos` has it. It tells them from everybody else's. Routes by a device of
/// our own need no mark, and have the protocol that stock gives them, `boot`.
pub const ROUTE_PROTOCOL: u8 = 82;

/// The links that entries belong to, by the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// The backend's own device, if it has one.
    pub overlay: Option<u32>,
    /// The external interface.
    pub underlay: u32,
}

/// What was found in the tables.
#[derive(Debug, Default)]
pub struct Found {
    /// Entries that are ours: on our own device, or routes with our mark.
    pub entries: Entries,
    /// Deletes duplicates: other entries under the same name.
    pub strays: Vec<Change>,
}

/// Tables of entries, of the kernel or in memory.
#[expect(async_fn_in_trait, reason = "all callers run on one thread: no bound is wanted")]
pub trait Tables {
    /// Reads the entries that are ours, inside `network` as far as they have an address.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    async fn read(&self, links: Links, network: Ipv4Network) -> Result<Found, KernelError>;

    /// Makes one change. To delete what is not there is no error.
    ///
    /// # Errors
    /// [`KernelError`] naming the change; of the kind `AlreadyExists` when somebody else's route to
    /// the subnet is in the way.
    async fn apply(&self, links: Links, change: Change) -> Result<(), KernelError>;
}

/// The tables of this host's kernel.
#[derive(Debug, Clone)]
pub struct KernelTables {
    handle: Handle,
}

impl KernelTables {
    /// Opens a netlink socket of its own, on which the kernel filters what it lists
    /// (`NETLINK_GET_STRICT_CHK`, Linux 4.20; older kernels list everything, and we filter). The
    /// future moves its messages and must be running for any call to end.
    ///
    /// # Errors
    /// [`KernelError`] when the socket cannot be made.
    pub fn connect() -> Result<(impl Future<Output = ()> + Send + 'static, Self), KernelError> {
        let (mut connection, handle, _unsolicited) = rtnetlink::new_connection()
            .map_err(|source| KernelError::new("open a netlink socket", source))?;
        // A kernel that does not know the option lists more than it is asked for.
        drop(connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true));
        Ok((connection, Self { handle }))
    }

    async fn neighbours(
        &self,
        family: AddressFamily,
        link: u32,
    ) -> Result<Vec<NeighbourMessage>, KernelError> {
        let mut request = self.handle.neighbours().get().set_address_family(family);
        if family == AddressFamily::Bridge {
            request.message_mut().header.ifindex = link;
        } else {
            request.message_mut().attributes.push(NeighbourAttribute::IfIndex(link));
        }
        let messages = request.execute().try_filter(|message| {
            let header = &message.header;
            let is_ours = header.ifindex == link && is_permanent(header.state);
            std::future::ready(is_ours)
        });
        messages.try_collect().await.map_err(|error| failed("list neighbours".to_owned(), error))
    }

    /// The routes of the main table that `filter` asks for and `is_wanted`.
    async fn routes(
        &self,
        filter: RouteMessage,
        is_wanted: impl Fn(&KernelHop) -> bool,
    ) -> Result<Vec<KernelHop>, KernelError> {
        let routes = self.handle.route().get(filter).execute().try_filter_map(|message| {
            std::future::ready(Ok(kernel_hop(&message).filter(&is_wanted)))
        });
        match routes.try_collect().await.map_err(|error| failed("list routes".to_owned(), error)) {
            // The kernel makes the main table with its first route.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            routes => routes,
        }
    }

    /// The link by which the kernel would send to `addr` now without a gateway; `None` if it would
    /// take one.
    ///
    /// # Errors
    /// [`KernelError`], also when there is no route to it.
    pub async fn on_link(&self, addr: Ipv4Addr) -> Result<Option<u32>, KernelError> {
        let mut to = any_route();
        to.header.table = 0;
        to.header.destination_prefix_length = 32;
        to.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(addr)));
        let routes: Vec<RouteMessage> =
            self.handle
                .route()
                .get(to)
                .execute()
                .try_collect()
                .await
                .map_err(|error| failed(format!("find a route to {addr}"), error))?;
        let (mut link, mut has_gateway) = (None, false);
        for attribute in routes.iter().flat_map(|route| &route.attributes) {
            if let RouteAttribute::Oif(index) = attribute {
                link = Some(*index);
            }
            has_gateway |= matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
        }
        let is_unicast = routes.iter().all(|route| route.header.kind == RouteType::Unicast);
        Ok(link.filter(|_| is_unicast && !has_gateway))
    }

    async fn set_route(&self, links: Links, subnet: Ipv4Network, hop: Hop) -> io::Result<()> {
        let message = route_message(links, subnet, hop)?;
        let added = self.handle.route().add(message.clone()).execute().await;
        match added.map_err(|error| failed(String::new(), error).source) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            added => return added,
        }
        let in_the_way = |route: &KernelHop| route.subnet == subnet && route.metric == 0;
        let found = self.routes(any_route(), in_the_way).await.map_err(|error| error.source)?;
        if let Some(other) = found.iter().find(|route| !route.is_flannels(links)) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, other.describe()));
        }
        let replaced = self.handle.route().add(message).replace().execute().await;
        replaced.map_err(|error| failed(String::new(), error).source)
    }
}

impl Tables for KernelTables {
    async fn read(&self, links: Links, network: Ipv4Network) -> Result<Found, KernelError> {
        let mut found = Found::default();
        let is_ours = |route: &KernelHop| {
            route.metric == 0 && network.contains(route.subnet.network()) && route.is_marked(links)
        };
        if let Some(overlay) = links.overlay {
            for message in self.neighbours(AddressFamily::Inet, overlay).await? {
                if let (Some(addr), Some(mac)) = neighbour(&message)
                    && network.contains(addr)
                {
                    found.entries.neighbours.insert(addr, mac);
                }
            }
            for message in self.neighbours(AddressFamily::Bridge, overlay).await? {
                if let (Some(dst), Some(mac)) = neighbour(&message)
                    && mac.is_usable()
                    && let Some(other) = found.entries.fdb.insert(mac, dst)
                {
                    found.strays.push(Change::DeleteFdb(mac, other));
                }
            }
            let mut filter = any_route();
            filter.attributes.push(RouteAttribute::Oif(overlay));
            for route in self.routes(filter, is_ours).await? {
                found.entries.routes.insert(route.subnet, route.hop(Via::Overlay));
            }
        }
        let mut filter = any_route();
        filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        for route in self.routes(filter, is_ours).await? {
            // One by another link than the external interface differs from all that are wanted.
            let gateway = route.gateway.filter(|_| route.link == Some(links.underlay));
            let hop = KernelHop { gateway, ..route }.hop(Via::Underlay);
            found.entries.routes.insert(route.subnet, hop);
        }
        Ok(found)
    }

    async fn apply(&self, links: Links, change: Change) -> Result<(), KernelError> {
        let overlay = links.overlay.unwrap_or_default();
        let neighbours = self.handle.neighbours();
        let result = match change {
            Change::SetNeighbour(addr, mac) => {
                let request = neighbours.add(overlay, IpAddr::V4(addr));
                request.link_layer_address(&mac.octets()).replace().execute().await
            }
            Change::DeleteNeighbour(addr) => {
                let message = neighbours.add(overlay, IpAddr::V4(addr)).message_mut().clone();
                neighbours.del(message).execute().await
            }
            Change::SetFdb(mac, dst) => {
                let request = neighbours.add_bridge(overlay, &mac.octets());
                let request = request.destination(IpAddr::V4(dst)).flags(NeighbourFlags::Own);
                request.replace().execute().await
            }
            Change::DeleteFdb(mac, dst) => {
                let request = neighbours.add_bridge(overlay, &mac.octets());
                let mut request = request.destination(IpAddr::V4(dst)).flags(NeighbourFlags::Own);
                neighbours.del(request.message_mut().clone()).execute().await
            }
            Change::SetRoute(subnet, hop) => {
                let set = self.set_route(links, subnet, hop).await;
                return set.map_err(|source| KernelError::new(change.to_string(), source));
            }
            Change::DeleteRoute(subnet, hop) => {
                let mut message = route_message(links, subnet, hop)
                    .map_err(|source| KernelError::new(change.to_string(), source))?;
                if hop.via == Via::Overlay {
                    // On our device every route inside the Network is ours, whoever made it.
                    message.header.protocol = RouteProtocol::Unspec;
                    message.header.scope = RouteScope::NoWhere;
                    message.header.kind = RouteType::Unspec;
                }
                self.handle.route().del(message).execute().await
            }
        };
        match result.map_err(|error| failed(change.to_string(), error)) {
            Err(error) if change.is_deletion() && is_gone(&error.source) => Ok(()),
            result => result,
        }
    }
}

/// Deletes every route with our mark, and returns what was deleted, in the words of `ip route`.
///
/// # Errors
/// [`KernelError`] when the kernel refuses.
pub async fn delete_marked_routes() -> Result<Vec<String>, KernelError> {
    let (connection, tables) = KernelTables::connect()?;
    tokio::spawn(connection);
    let mut filter = any_route();
    filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    let is_marked = |route: &KernelHop| {
        route.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) && route.is_unicast
    };
    let mut deleted = Vec::new();
    for route in tables.routes(filter, is_marked).await? {
        let hop = Hop { gateway: Ipv4Addr::UNSPECIFIED, via: Via::Underlay };
        let links = Links { overlay: None, underlay: 0 };
        tables.apply(links, Change::DeleteRoute(route.subnet, hop)).await?;
        deleted.push(format!("route {}", route.subnet));
    }
    Ok(deleted)
}

/// Whether the kernel says that an entry, or its link, does not exist.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}

/// Any IPv4 route of the main table, for a dump.
fn any_route() -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new().build();
    message.header.protocol = RouteProtocol::Unspec;
    message.header.kind = RouteType::Unspec;
    message
}

/// The route to `subnet`; for a deletion, one without a gateway has none in it.
fn route_message(links: Links, subnet: Ipv4Network, hop: Hop) -> io::Result<RouteMessage> {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix());
    let message = match hop.gateway {
        Ipv4Addr::UNSPECIFIED => message,
        gateway => message.gateway(gateway),
    };
    Ok(match hop.via {
        Via::Overlay => {
            let link = links.overlay.ok_or(io::ErrorKind::NotFound)?;
            message.output_interface(link).onlink().protocol(RouteProtocol::Boot).build()
        }
        Via::Underlay if hop.gateway.is_unspecified() => {
            message.protocol(RouteProtocol::Other(ROUTE_PROTOCOL)).build()
        }
        Via::Underlay => message
            .output_interface(links.underlay)
            .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
            .build(),
    })
}

/// A route of the main table.
#[derive(Debug, Clone, Copy)]
struct KernelHop {
    subnet: Ipv4Network,
    gateway: Option<Ipv4Addr>,
    link: Option<u32>,
    metric: u32,
    protocol: RouteProtocol,
    is_unicast: bool,
}

impl KernelHop {
    /// Whether it is by our own device, or has our mark.
    fn is_marked(&self, links: Links) -> bool {
        let is_overlays = self.link.is_some() && self.link == links.overlay;
        self.is_unicast
            && (is_overlays && self.protocol != RouteProtocol::Kernel
                || self.protocol == RouteProtocol::Other(ROUTE_PROTOCOL))
    }

    /// Whether a flannel made it, ours or stock: stock's routes have the protocol `boot` and a
    /// gateway. A connected route, an operator's `static` one and a routing daemon's are none.
    fn is_flannels(&self, links: Links) -> bool {
        let is_stocks = self.protocol == RouteProtocol::Boot && self.gateway.is_some();
        self.is_marked(links) || self.is_unicast && is_stocks
    }

    fn hop(&self, via: Via) -> Hop {
        Hop { gateway: self.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED), via }
    }

    fn describe(&self) -> String {
        let link = self.link.map_or("no link".to_owned(), |index| format!("link {index}"));
        let gateway = self.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        format!("another route to {}{gateway} by {link} is in the way", self.subnet)
    }
}

/// `None` for a route of another table or family.
fn kernel_hop(message: &RouteMessage) -> Option<KernelHop> {
    let RouteFields { dst: subnet, link, gateway, metric, .. } =
        RouteFields::of(message).filter(RouteFields::is_in_main_table)?;
    let header = &message.header;
    let (protocol, is_unicast) = (header.protocol, header.kind == RouteType::Unicast);
    Some(KernelHop { subnet, gateway, link, metric, protocol, is_unicast })
}

/// Whether an entry stays until somebody deletes it; `bridge fdb add` sets `NUD_NOARP` with it.
pub(super) fn is_permanent(state: NeighbourState) -> bool {
    let permanent = u16::from(NeighbourState::Permanent);
    u16::from(state) & permanent == permanent
}

/// The IPv4 address and the Ethernet address of a neighbour or forwarding entry.
pub(super) fn neighbour(message: &NeighbourMessage) -> (Option<Ipv4Addr>, Option<Mac>) {
    let (mut addr, mut mac) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(dst)) = attribute {
            addr = Some(*dst);
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Other(octets)) = attribute {
            // The family of a forwarding entry is `AF_BRIDGE`, so its length alone tells.
            addr = <[u8; 4]>::try_from(octets.as_slice()).ok().map(Ipv4Addr::from);
        } else if let NeighbourAttribute::LinkLayerAddress(octets) = attribute {
            mac = Mac::from_slice(octets);
        }
    }
    (addr, mac)
}
