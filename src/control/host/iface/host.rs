//! Reads the links and routes that [`select`](super::select) chooses from.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use tokio::task::{JoinError, spawn_blocking};

use super::{HostAddr, HostLink, HostView, IfaceSpec, Reached};
use crate::control::host::net::{KernelError, Netlink, default_routes, failed};

/// Reads links, IPv4 addresses and routes of this host, and what `specs` ask about.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub async fn read(net: &Netlink, specs: &[IfaceSpec]) -> Result<HostView, KernelError> {
    let mut reached = Vec::new();
    for spec in specs {
        if let IfaceSpec::CanReach(addr) = spec
            && let Ok(Some((link, src))) = net.way_to(*addr).await
        {
            reached.push(Reached { addr: *addr, link, src });
        }
    }
    let links = net.handle().link().get().execute().try_collect::<Vec<_>>();
    let links = links.await.map_err(|error| failed("list links".to_owned(), error))?;
    let addrs = net.handle().address().get().execute().try_collect::<Vec<_>>();
    let addrs = addrs.await.map_err(|error| failed("list addresses".to_owned(), error))?;
    let mut links: Vec<HostLink> = links.into_iter().map(host_link).collect();
    for message in &addrs {
        let link = links.iter_mut().find(|link| link.index == message.header.index);
        if let (Some(link), Some(addr)) = (link, host_addr(message)) {
            link.addrs.push(addr);
        }
    }
    // Only the default route is needed, and only without a named interface. The kernel has no
    // request for it alone, so the others, a million perhaps, are dropped one by one.
    let defaults = specs.is_empty().then(|| spawn_blocking(default_routes));
    let routes = match defaults {
        Some(defaults) => defaults.await.unwrap_or_else(|error| Err(unread(error)))?,
        None => Vec::new(),
    };
    Ok(HostView { links, routes, reached })
}

fn unread(error: JoinError) -> KernelError {
    KernelError::new("list routes", io::Error::other(error))
}

fn host_link(message: LinkMessage) -> HostLink {
    let index = message.header.index;
    let mut link = HostLink { index, name: String::new(), mtu: 0, addrs: Vec::new() };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        }
    }
    link
}

/// `None` for IPv6. The local end is what counts: on a point-to-point link `IFA_ADDRESS` is the
/// other end's.
fn host_addr(message: &AddressMessage) -> Option<HostAddr> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let mut addr: Option<Ipv4Addr> = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Local(IpAddr::V4(local)) = attribute {
            addr = Some(*local);
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    Some(HostAddr {
        addr: addr?,
        prefix_len: message.header.prefix_len,
        permanent: flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}
