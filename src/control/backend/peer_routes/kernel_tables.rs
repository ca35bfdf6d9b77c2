//! [`KernelTables`]: the tables of this host's kernel, over netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::sys::AsyncSocket;

use super::entries::{Change, Hop, Via};
use super::kernel_entries::{KernelHop, is_permanent, kernel_hop, neighbour, route_message};
use super::tables::{Found, Links, Tables};
use crate::control::host::net::{KernelError, ROUTE_PROTOCOL, RouteFields, any_main_route, failed};

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
        let mut to = any_main_route();
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
        let is_unicast = |route: &&RouteMessage| route.header.kind == RouteType::Unicast;
        let route = routes.first().filter(is_unicast).and_then(RouteFields::of);
        Ok(route.filter(|route| !route.has_gateway).and_then(|route| route.link))
    }

    async fn set_route(&self, links: Links, subnet: Ipv4Network, hop: Hop) -> io::Result<()> {
        let message = route_message(links, subnet, hop)?;
        let added = self.handle.route().add(message.clone()).execute().await;
        match added.map_err(|error| failed(String::new(), error).source) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            added => return added,
        }
        let in_the_way = |route: &KernelHop| route.subnet == subnet && route.metric == 0;
        let found =
            self.routes(any_main_route(), in_the_way).await.map_err(|error| error.source)?;
        if let Some(other) = found.iter().find(|route| !route.is_flannels(links)) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, other.describe()));
        }
        if let (Some(old), Via::Underlay) = (found.first(), hop.via) {
            let old = old.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
            tracing::warn!(
                "Replacing existing route to {subnet} via {old} with {subnet} via {}",
                hop.gateway
            );
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
            let mut filter = any_main_route();
            filter.attributes.push(RouteAttribute::Oif(overlay));
            for route in self.routes(filter, is_ours).await? {
                found.entries.routes.insert(route.subnet, route.hop(Via::Overlay));
            }
        }
        let mut filter = any_main_route();
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
                    // On our device every route inside the Network is ours, whatever made it.
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

/// Whether the kernel says that an entry, or its link, does not exist.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}
