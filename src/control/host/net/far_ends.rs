//! The other ends of veths, in the network namespaces of containers. The kernel lists links and
//! addresses of a namespace that has a link with one of ours: only for its routes it must be entered.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::container_routes::container_routes;
use super::neighbours::Mac;
use super::netlink::{link_of, local_addr};
use super::scan::{list, open};
use super::{ContainerRoutes, Link, LinkAddr, LinkDetails};

/// The interface of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarEnd {
    /// The number of the end on this host.
    pub near: u32,
    /// The interface in its namespace.
    pub link: Link,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Its IPv4 addresses.
    pub addrs: Vec<LinkAddr>,
    /// The routes of its namespace, if that could be entered.
    pub routes: Option<ContainerRoutes>,
}

impl FarEnd {
    /// Whether it has the address `addr`.
    pub fn has(&self, addr: Ipv4Addr) -> bool {
        self.addrs.iter().any(|own| own.addr == addr)
    }
}

/// What one namespace has.
type Namespace = BTreeMap<u32, FarEnd>;

/// The interfaces of containers that `links` lead to. Namespaces that may not be looked into are left
/// out, and all of them on a kernel before 4.20. Blocks while the kernel answers.
pub fn far_ends(links: &[LinkDetails]) -> Vec<FarEnd> {
    let mut namespaces = BTreeMap::<i32, Namespace>::new();
    let mut found = Vec::new();
    for (near, (namespace, far)) in links.iter().filter_map(|it| Some((it.link.index, it.far_end?)))
    {
        let known =
            namespaces.entry(namespace).or_insert_with(|| read(namespace).unwrap_or_default());
        found.extend(known.get(&far).map(|end| (namespace, FarEnd { near, ..end.clone() })));
    }
    let routes = container_routes(&namespaces.into_keys().collect());
    let with_routes = |(id, end): (i32, FarEnd)| FarEnd { routes: routes.get(&id).cloned(), ..end };
    found.into_iter().map(with_routes).collect()
}

fn read(namespace: i32) -> io::Result<Namespace> {
    let socket = open()?;
    // Without strict checks the kernel lists the addresses of our own namespace.
    socket.set_netlink_get_strict_chk(true)?;
    let mut found = Namespace::new();
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfNetnsId(namespace));
    list(&socket, RouteNetlinkMessage::GetLink(request), |message| {
        let RouteNetlinkMessage::NewLink(message) = message else { return };
        let mac = message.attributes.iter().find_map(|attribute| {
            if let LinkAttribute::Address(bytes) = attribute { Mac::of(bytes) } else { None }
        });
        let (link, addrs) = (link_of(message), Vec::new());
        found.insert(link.index, FarEnd { near: 0, link, mac, addrs, routes: None });
    })?;
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    request.attributes.push(AddressAttribute::TargetNetNsId(namespace));
    list(&socket, RouteNetlinkMessage::GetAddress(request), |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return };
        let Some((link, addr)) = local_addr(message) else { return };
        found.entry(link).and_modify(|end| end.addrs.push(addr));
    })?;
    Ok(found)
}
