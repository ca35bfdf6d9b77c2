//! One route of a table that may have a million.
//!
//! The kernel has no request for "the route to exactly this range". It reports which route an address
//! takes, for little, and it lists the routes by one link, for which it goes through the table
//! itself but hands over no more than those.

use std::net::Ipv4Addr;
use std::pin::pin;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};

use super::netlink::{failed, route};
use super::{KernelError, KernelRoute, Link, Netlink};

/// As [`HostNet::has_route`](super::HostNet::has_route).
pub(super) async fn has_route(
    net: &Netlink,
    dst: Ipv4Network,
    link: &Link,
) -> Result<bool, KernelError> {
    let is_it = |route: &KernelRoute| {
        route.dst == dst && route.metric == 0 && route.link == Some(link.index)
    };
    // The last address is one that hardly any other route leads to. It decides only if its route
    // is that to `dst`: there may be one to less, or a rule for another table.
    if let Ok(Some(found)) = net.matched_route(dst.broadcast()).await
        && found.is_in_main_table()
        && found.dst == dst
        && found.metric == 0
    {
        return Ok(found.link == Some(link.index));
    }
    let mut by_link = RouteMessage::default();
    by_link.header.address_family = AddressFamily::Inet;
    by_link.header.table = RouteHeader::RT_TABLE_MAIN;
    by_link.attributes.push(RouteAttribute::Oif(link.index));
    let mut messages = pin!(net.handle().route().get(by_link).execute());
    let mut has_it = false;
    while let Some(message) = messages
        .try_next()
        .await
        .map_err(|error| failed(format!("list routes dev {}", link.name), error))?
    {
        has_it |= route(&message).as_ref().is_some_and(is_it);
    }
    Ok(has_it)
}

/// Asks which route `addr` takes. No more is set than that: it would be refused where the kernel
/// checks strictly.
pub(super) fn request_for(addr: Ipv4Addr) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.destination_prefix_length = 32;
    request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(addr)));
    request
}
