//! Entries as netlink messages, and back. Does no I/O.

use std::io;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteType};

use super::entries::{Hop, Via};
use super::mac::Mac;
use super::tables::Links;
use crate::control::host::net::{ROUTE_PROTOCOL, RouteFields};

/// The route to `subnet`. One that is deleted may have no gateway.
pub(super) fn route_message(
    links: Links,
    subnet: Ipv4Network,
    hop: Hop,
) -> io::Result<RouteMessage> {
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
        // It may leave by another link than the external interface.
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
pub(super) struct KernelHop {
    pub(super) subnet: Ipv4Network,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) link: Option<u32>,
    pub(super) metric: u32,
    pub(super) protocol: RouteProtocol,
    pub(super) is_unicast: bool,
}

impl KernelHop {
    /// Whether it is by our own device, or has our mark.
    pub(super) fn is_marked(&self, links: Links) -> bool {
        let is_overlays = self.link.is_some() && self.link == links.overlay;
        self.is_unicast
            && (is_overlays && self.protocol != RouteProtocol::Kernel
                || self.protocol == RouteProtocol::Other(ROUTE_PROTOCOL))
    }

    /// Whether a flannel made it, ours or stock: stock's routes have the protocol `boot` and a
    /// gateway. A connected route, an operator's `static` one and a routing daemon's are none.
    pub(super) fn is_flannels(&self, links: Links) -> bool {
        let is_stocks = self.protocol == RouteProtocol::Boot && self.gateway.is_some();
        self.is_marked(links) || self.is_unicast && is_stocks
    }

    pub(super) fn hop(&self, via: Via) -> Hop {
        Hop { gateway: self.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED), via }
    }

    pub(super) fn describe(&self) -> String {
        let link = self.link.map_or("no link".to_owned(), |index| format!("link {index}"));
        let gateway = self.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        format!("another route to {}{gateway} by {link} is in the way", self.subnet)
    }
}

/// `None` for a route of another table or family.
pub(super) fn kernel_hop(message: &RouteMessage) -> Option<KernelHop> {
    let RouteFields { dst: subnet, link, gateway, metric, .. } =
        RouteFields::of(message).filter(RouteFields::is_in_main_table)?;
    let header = &message.header;
    let (protocol, is_unicast) = (header.protocol, header.kind == RouteType::Unicast);
    Some(KernelHop { subnet, gateway, link, metric, protocol, is_unicast })
}

/// Whether an entry stays until it is deleted; `bridge fdb add` sets `NUD_NOARP` with it.
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
            // The family of a forwarding entry is `AF_BRIDGE`, so only its length is known.
            addr = <[u8; 4]>::try_from(octets.as_slice()).ok().map(Ipv4Addr::from);
        } else if let NeighbourAttribute::LinkLayerAddress(octets) = attribute {
            mac = Mac::from_slice(octets);
        }
    }
    (addr, mac)
}
