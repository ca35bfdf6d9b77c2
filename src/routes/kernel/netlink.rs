//! [`HostNet`] on the real host, over one rtnetlink socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::{HostNet, KernelError, KernelRoute, Link, RouteAdded};
use crate::routes::Subnet;

/// The host's network, changed through netlink.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
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
    /// The way to requests that are nobody's but the caller's.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl HostNet for Netlink {
    async fn link(&self, name: &str) -> Result<Link, KernelError> {
        let mut found = pin!(self.handle.link().get().match_name(name).execute());
        let link = found.try_next().await;
        let link = link.map_err(|error| failed(format!("find link {name}"), error))?;
        let index = link.map(|message| message.header.index).ok_or_else(|| {
            KernelError::new(format!("find link {name}"), io::ErrorKind::NotFound)
        })?;
        Ok(Link { index, name: name.to_owned() })
    }

    async fn add_addr(&self, link: &Link, addr: Ipv4Addr) -> Result<(), KernelError> {
        // With a /32 the request carries no broadcast address; the scope's default is global.
        let request = self.handle.address().add(link.index, IpAddr::V4(addr), 32);
        let result = request.execute().await;
        result.map_err(|error| failed(format!("add address {addr}/32 to {}", link.name), error))
    }

    async fn set_sizes(&self, link: &Link, mtu: u32, txqueuelen: u32) -> Result<(), KernelError> {
        let message =
            LinkUnspec::new_with_index(link.index).mtu(mtu).txqueuelen(txqueuelen).build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("set MTU {mtu} on {}", link.name), error))
    }

    async fn set_up(&self, link: &Link) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(|error| failed(format!("bring {} up", link.name), error))
    }

    async fn add_route(&self, dst: Subnet, link: &Link) -> Result<RouteAdded, KernelError> {
        // The builder's other defaults are what is wanted: table main, scope universe, unicast.
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(dst.addr(), dst.prefix_len())
            .output_interface(link.index)
            .protocol(RouteProtocol::Boot)
            .build();
        match self.handle.route().add(message).execute().await.map_err(into_io) {
            Ok(()) => Ok(RouteAdded::Added),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(RouteAdded::Exists),
            Err(error) => {
                Err(KernelError::new(format!("add route {dst} dev {}", link.name), error))
            }
        }
    }

    async fn routes(&self) -> Result<Vec<KernelRoute>, KernelError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages = self.handle.route().get(all).execute();
        let routes = messages.try_filter_map(|message| std::future::ready(Ok(route(&message))));
        routes.try_collect().await.map_err(|error| failed("list routes".to_owned(), error))
    }
}

/// `None` for what is no unicast route of the main table: the kernel dumps all tables.
fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut addr, mut link, mut metric) = (Ipv4Addr::UNSPECIFIED, None, 0);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(dst)) = attribute {
            addr = *dst;
        } else if let RouteAttribute::Oif(index) = attribute {
            link = Some(*index);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Table(id) = attribute {
            table = *id;
        }
    }
    if header.kind != RouteType::Unicast || table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let dst = Subnet::new(addr, header.destination_prefix_length).ok()?;
    Some(KernelRoute { dst, link, metric })
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
