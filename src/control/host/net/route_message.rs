//! [`RouteFields`]: what the kernel says of a route.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop,
};

use crate::routes::Prefix;

/// The table of the host's own addresses: `include/uapi/linux/rtnetlink.h`.
pub(super) const RT_TABLE_LOCAL: u32 = 255;
/// The table that is asked last.
pub(super) const RT_TABLE_DEFAULT: u32 = 253;

/// An IPv4 route of any table and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteFields {
    /// Destinations that take it.
    pub dst: Ipv4Network,
    /// The table that it is in.
    pub table: u32,
    /// The link that all next hops leave by, if it is one.
    pub link: Option<u32>,
    /// The router that it leads to; `None` with several, and for a route on the link itself.
    pub gateway: Option<Ipv4Addr>,
    /// Whether it leads to a router, of either address family.
    pub has_gateway: bool,
    /// The kernel's priority: of two routes to one destination the lower is taken.
    pub metric: u32,
}

impl RouteFields {
    /// `None` for another family.
    pub fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.address_family != AddressFamily::Inet {
            return None;
        }
        // The header has no room for the numbers of most tables, and a default route no destination.
        let mut table = u32::from(header.table);
        let (mut addr, mut link, mut gateway, mut metric) = (Ipv4Addr::UNSPECIFIED, None, None, 0);
        let mut has_gateway = false;
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(RouteAddress::Inet(dst)) = attribute {
                addr = *dst;
            } else if let RouteAttribute::Oif(index) = attribute {
                link = Some(*index);
            } else if let RouteAttribute::MultiPath(hops) = attribute {
                link = only_link(hops);
            } else if let RouteAttribute::Gateway(RouteAddress::Inet(via)) = attribute {
                (gateway, has_gateway) = (Some(*via), true);
            } else if let RouteAttribute::Via(_) = attribute {
                has_gateway = true;
            } else if let RouteAttribute::Priority(priority) = attribute {
                metric = *priority;
            } else if let RouteAttribute::Table(id) = attribute {
                table = *id;
            }
        }
        let dst = Ipv4Network::containing(addr, header.destination_prefix_length).ok()?;
        Some(Self { dst, table, link, gateway, has_gateway, metric })
    }

    /// Whether it is in the table `main`.
    pub fn is_in_main_table(&self) -> bool {
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }

    /// Whether it is in a table that is asked only because a rule of the operator's says so.
    pub fn is_in_table_of_a_rule(&self) -> bool {
        !self.is_in_main_table() && ![RT_TABLE_LOCAL, RT_TABLE_DEFAULT].contains(&self.table)
    }
}

fn only_link(hops: &[RouteNextHop]) -> Option<u32> {
    let (first, others) = hops.split_first()?;
    let is_only = others.iter().all(|hop| hop.interface_index == first.interface_index);
    is_only.then_some(first.interface_index)
}
