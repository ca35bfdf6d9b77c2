//! [`TableChanges`]: reports that somebody changed the kernel's tables.

use std::fmt;
use std::net::Ipv4Addr;
use std::pin::Pin;

use futures_util::{FutureExt, Stream, StreamExt};
use ipnetwork::Ipv4Network;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};

use super::entries::Entries;
use super::kernel_entries::{is_permanent, neighbour};
use super::tables::Links;
use crate::control::host::net::KernelError;
use crate::routes::Prefix;

/// The kernel's messages on links, addresses, routes and neighbours, less those that our own
/// changes cause.
pub struct TableChanges {
    messages: Pin<Box<dyn Stream<Item = NetlinkPayload<RouteNetlinkMessage>> + Send + Sync>>,
}

impl TableChanges {
    /// Subscribes. The future moves the messages and must be running.
    ///
    /// # Errors
    /// [`KernelError`] when the socket cannot be made.
    pub fn subscribe() -> Result<(impl Future<Output = ()> + Send + 'static, Self), KernelError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Neigh,
        ];
        let (connection, handle, messages) = new_multicast_connection(&groups)
            .map_err(|source| KernelError::new("watch links, routes and neighbours", source))?;
        // The connection ends with the last handle.
        let messages = messages.map(move |(message, _)| {
            let _ = &handle;
            message.payload
        });
        Ok((connection, Self { messages: Box::pin(messages) }))
    }

    /// Waits for a change that makes something differ from `there`, as far as a message shows.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn next(&mut self, links: Links, there: &Entries) {
        while let Some(payload) = self.messages.next().await {
            if concerns(&payload, links, there) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Forgets what has been reported by now.
    pub fn drain(&mut self) {
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
    }
}

impl fmt::Debug for TableChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableChanges").finish_non_exhaustive()
    }
}

fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>, links: Links, there: &Entries) -> bool {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, NewAddress, NewLink, NewNeighbour, NewRoute,
    };
    let NetlinkPayload::InnerMessage(message) = payload else {
        // The kernel had more to report than we took in time: anything may have changed.
        return matches!(payload, NetlinkPayload::Overrun(_));
    };
    let is_ours = |index| Some(index) == links.overlay || index == links.underlay;
    if let NewLink(link) | DelLink(link) = message {
        is_ours(link.header.index)
    } else if let NewAddress(address) | DelAddress(address) = message {
        is_ours(address.header.index)
    } else if let NewNeighbour(entry) = message {
        Some(entry.header.ifindex) == links.overlay && !is_there(entry, there)
    } else if let DelNeighbour(entry) = message {
        Some(entry.header.ifindex) == links.overlay && is_there(entry, there)
    } else if let NewRoute(route) = message {
        // A route of ours that is reported as new is one that we just made, or one in its place.
        let gateway = gateway_of(route);
        destination(route)
            .and_then(|subnet| there.routes.get(&subnet))
            .is_some_and(|hop| gateway != Some(hop.gateway))
    } else if let DelRoute(route) = message {
        destination(route).is_some_and(|subnet| there.routes.contains_key(&subnet))
    } else {
        false
    }
}

/// Whether `there` has the neighbour or forwarding entry just as the message says.
fn is_there(message: &NeighbourMessage, there: &Entries) -> bool {
    let (Some(addr), Some(mac)) = neighbour(message) else { return false };
    is_permanent(message.header.state)
        && if message.header.family == AddressFamily::Bridge {
            there.fdb.get(&mac) == Some(&addr)
        } else {
            there.neighbours.get(&addr) == Some(&mac)
        }
}

fn destination(route: &RouteMessage) -> Option<Ipv4Network> {
    let addr = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet(addr)) = attribute else { return None };
        Some(*addr)
    })?;
    Ipv4Network::containing(addr, route.header.destination_prefix_length).ok()
}

fn gateway_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Gateway(RouteAddress::Inet(addr)) = attribute else { return None };
        Some(*addr)
    })
}
