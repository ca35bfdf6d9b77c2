//! [`HostNet`] on the real host, over one rtnetlink socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkHeader, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::one_route::{has_route, request_for};
use super::{HostNet, KernelError, KernelRoute, Link, LinkAddr, RouteAdded, RouteFields, Way};

/// The host's network, changed through netlink.
#[derive(Debug, Clone)]
pub struct Netlink {
    pub(super) handle: Handle,
}

/// Opens a netlink socket. The future moves its messages and must be running, on the runtime the
/// caller is in, for any call on [`Netlink`] to end.
///
/// # Errors
/// [`KernelError`] when the socket cannot be made.
pub fn connect() -> Result<(impl Future<Output = ()> + Send + 'static, Netlink), KernelError> {
    let (connection, handle, _unsolicited) = rtnetlink::new_connection()
        .map_err(|source| KernelError::new("open a netlink socket", source))?;
    Ok((connection, Netlink { handle }))
}

impl Netlink {
    /// By which link, and from which address of ours, the kernel would send to `addr` now.
    ///
    /// # Errors
    /// [`KernelError`], also when there is no route to it.
    pub async fn way_to(&self, addr: Ipv4Addr) -> Result<Option<(u32, Ipv4Addr)>, KernelError> {
        let mut found = pin!(self.handle.route().get(request_for(addr)).execute());
        let route = found.try_next().await;
        let route = route.map_err(|error| failed(format!("find a route to {addr}"), error))?;
        let (mut link, mut src) = (None, None);
        for attribute in route.map(|route| route.attributes).unwrap_or_default() {
            if let RouteAttribute::Oif(index) = attribute {
                link = Some(index);
            } else if let RouteAttribute::PrefSource(RouteAddress::Inet(addr)) = attribute {
                src = Some(addr);
            }
        }
        Ok(link.zip(src))
    }

    /// By which way the kernel would send to `addr` now from our address `src`, and the MTU that
    /// somebody gave that route, if any; `None` if it names no way, as with several links at once.
    ///
    /// # Errors
    /// [`KernelError`], also when there is no route to it.
    pub async fn way_from(
        &self,
        src: Ipv4Addr,
        addr: Ipv4Addr,
    ) -> Result<Option<(Way, Option<u32>)>, KernelError> {
        let mut to = request_for(addr);
        to.header.source_prefix_length = 32;
        to.attributes.push(RouteAttribute::Source(RouteAddress::Inet(src)));
        let Some(route) = self.found(to.clone(), addr).await? else { return Ok(None) };
        let mut mtu = mtu_of(&route);
        if mtu.is_some() {
            // It may be what an ICMP said. The route in the table has none of that.
            to.header.flags |= RouteFlags::FibMatch;
            mtu = self.found(to, addr).await?.as_ref().and_then(mtu_of);
        }
        Ok(way(&route).map(|way| (way, mtu)))
    }

    async fn found(
        &self,
        request: RouteMessage,
        addr: Ipv4Addr,
    ) -> Result<Option<RouteMessage>, KernelError> {
        let mut found = pin!(self.handle.route().get(request).execute());
        let route = found.try_next().await;
        route.map_err(|error| failed(format!("find a route to {addr}"), error))
    }

    /// The handle for requests of the caller.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl HostNet for Netlink {
    async fn link(&self, name: &str) -> Result<Link, KernelError> {
        let mut found = pin!(self.handle.link().get().match_name(name).execute());
        let link = found.try_next().await;
        let link = link.map_err(|error| failed(format!("find link {name}"), error))?;
        let missing = || KernelError::new(format!("find link {name}"), io::ErrorKind::NotFound);
        link.as_ref().map(link_of).ok_or_else(missing)
    }

    async fn link_at(&self, index: u32) -> Result<Option<Link>, KernelError> {
        let mut found = pin!(self.handle.link().get().match_index(index).execute());
        match found.try_next().await {
            Ok(link) => Ok(link.as_ref().map(link_of)),
            Err(error) => {
                let error = failed(format!("find link {index}"), error);
                let is_gone = error.source.raw_os_error() == Some(libc::ENODEV);
                if is_gone { Ok(None) } else { Err(error) }
            }
        }
    }

    async fn addrs_of(&self, index: u32) -> Result<Vec<LinkAddr>, KernelError> {
        let mut request = self.handle.address().get();
        let header = &mut request.message_mut().header;
        (header.family, header.index) = (AddressFamily::Inet, index);
        // A kernel without strict checks lists those of all links.
        let of_link = |message: AddressMessage| {
            let found = local_addr(&message).filter(|(link, _)| *link == index);
            std::future::ready(Ok(found.map(|(_, addr)| addr)))
        };
        let addrs = request.execute().try_filter_map(of_link).try_collect().await;
        addrs.or_else(|error| match failed(format!("list addresses of link {index}"), error) {
            error if error.source.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            error => Err(error),
        })
    }

    async fn owner_of(&self, addr: Ipv4Addr) -> Result<Option<u32>, KernelError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let mut messages = pin!(request.execute());
        let mut owner = None;
        // To the end: the answers to a request whose caller is gone are thrown away one by one.
        while let Some(message) = messages
            .try_next()
            .await
            .map_err(|error| failed(format!("find the link of address {addr}"), error))?
        {
            let found = local_addr(&message).filter(|(_, own)| own.addr == addr);
            owner = owner.or(found.map(|(link, _)| link));
        }
        Ok(owner)
    }

    async fn add_addr(&self, link: &Link, addr: Ipv4Addr) -> Result<(), KernelError> {
        // With a /32 the request carries no broadcast address; the scope's default is global.
        let request = self.handle.address().add(link.index, IpAddr::V4(addr), 32);
        let result = request.execute().await;
        result.map_err(|error| failed(format!("add address {addr}/32 to {}", link.name), error))
    }

    async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("set MTU {mtu} on {}", link.name), error))
    }

    async fn set_txqueuelen(&self, link: &Link, txqueuelen: u32) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(link.index).txqueuelen(txqueuelen).build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("set the queue of {}", link.name), error))
    }

    async fn set_no_ipv6_addr(&self, link: &Link) -> Result<(), KernelError> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        let message = LinkUnspec::new_with_index(link.index);
        let message = message.append_extra_attribute(attribute).build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("keep {} without IPv6 address", link.name), error))
    }

    async fn set_up(&self, link: &Link) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("bring {} up", link.name), error))
    }

    async fn add_route(&self, dst: Ipv4Network, link: &Link) -> Result<RouteAdded, KernelError> {
        let message = network_route(dst, link);
        match self.handle.route().add(message).execute().await.map_err(into_io) {
            Ok(()) => Ok(RouteAdded::Added),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(RouteAdded::Exists),
            Err(error) => {
                Err(KernelError::new(format!("add route {dst} dev {}", link.name), error))
            }
        }
    }

    async fn replace_route(&self, dst: Ipv4Network, link: &Link) -> Result<(), KernelError> {
        let request = self.handle.route().add(network_route(dst, link)).replace();
        let result = request.execute().await;
        result.map_err(|error| failed(format!("replace route {dst} dev {}", link.name), error))
    }

    async fn has_route(&self, dst: Ipv4Network, link: &Link) -> Result<bool, KernelError> {
        has_route(self, dst, link).await
    }
}

/// A link as the kernel describes it.
pub(crate) fn link_of(message: &LinkMessage) -> Link {
    let LinkHeader { index, flags, .. } = message.header;
    let (is_up, has_carrier) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::LowerUp));
    let mut link = Link { index, name: String::new(), mtu: 0, is_up, has_carrier };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        }
    }
    link
}

/// The address with its link's number; `None` for IPv6.
pub(super) fn local_addr(message: &AddressMessage) -> Option<(u32, LinkAddr)> {
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(IpAddr::V4(addr)) = attribute { Some(*addr) } else { None }
    });
    let prefix_len = message.header.prefix_len;
    local.map(|addr| (message.header.index, LinkAddr { addr, prefix_len }))
}

/// A unicast route to `dst` by `link`, of the protocol `boot`.
fn network_route(dst: Ipv4Network, link: &Link) -> RouteMessage {
    // The builder's other defaults are what is wanted: table main, scope universe, unicast.
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(dst.network(), dst.prefix())
        .output_interface(link.index)
        .protocol(RouteProtocol::Boot)
        .build()
}

/// `None` for what is no unicast route of the main table: the kernel dumps all tables.
pub(super) fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let found = RouteFields::of(message)?;
    if message.header.kind != RouteType::Unicast || !found.is_in_main_table() {
        return None;
    }
    let RouteFields { dst, link, metric, .. } = found;
    Some(KernelRoute { dst, link, metric })
}

/// What a route that the kernel found says of the way.
fn way(route: &RouteMessage) -> Option<Way> {
    let kind = route.header.kind;
    if kind == RouteType::Local {
        return Some(Way::Here);
    } else if kind == RouteType::Broadcast {
        return Some(Way::Broadcast);
    } else if kind == RouteType::Multicast {
        return Some(Way::Multicast);
    }
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute { Some(Way::Link(*index)) } else { None }
    })
}

/// The MTU among a route's metrics.
fn mtu_of(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Metrics(metrics) = attribute { Some(metrics) } else { None }
    });
    metrics?.iter().find_map(|metric| {
        if let RouteMetric::Mtu(mtu) = metric { Some(*mtu).filter(|mtu| *mtu > 0) } else { None }
    })
}

/// An error of `operation`, which one request was for.
pub(crate) fn failed(operation: String, error: rtnetlink::Error) -> KernelError {
    KernelError::new(operation, into_io(error))
}

/// The kernel's own error where there is one: its text is what an operator can look up.
fn into_io(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io()
    } else {
        io::Error::other(error)
    }
}
