//! All links of the host in detail, and its routes: for the commands that explain a host.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};

use super::netlink::{failed, link_of, local_addr};
use super::scan::dump;
use super::{KernelError, Link, LinkAddr, Netlink, RouteFields};

/// A link with what it is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkDetails {
    /// Number, name, MTU and state.
    pub link: Link,
    /// The kernel's word for its kind: `tun`, `vxlan`, `bridge`; `None` for a NIC.
    pub kind: Option<String>,
    /// The number of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// VNI and port of a vxlan device.
    pub vxlan: Option<(u32, u16)>,
    /// Its IPv4 addresses.
    pub addrs: Vec<LinkAddr>,
    /// Packets that wait in its queue at most; a TUN device without room takes none.
    pub queue_len: u32,
    /// The other end of a veth in another network namespace: the kernel's numbers for the namespace
    /// and for the link there.
    pub far_end: Option<(i32, u32)>,
}

impl LinkDetails {
    /// Whether it has the address `addr`.
    pub fn has(&self, addr: Ipv4Addr) -> bool {
        self.addrs.iter().any(|own| own.addr == addr)
    }

    /// Whether its kind is `kind`.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// An IPv4 route of any table, with who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteDetails {
    /// Where it leads.
    pub fields: RouteFields,
    /// The number of the program that made it: rtnetlink(7).
    pub protocol: u8,
    /// Whether packets end there: blackhole, unreachable, prohibit.
    pub is_end: bool,
}

/// Lists all links of the host with their IPv4 addresses.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub async fn all_links(net: &Netlink) -> Result<Vec<LinkDetails>, KernelError> {
    let links = net.handle().link().get().execute().try_collect::<Vec<_>>();
    let links = links.await.map_err(|error| failed("list links".to_owned(), error))?;
    let addrs = net.handle().address().get().execute().try_collect::<Vec<_>>();
    let addrs = addrs.await.map_err(|error| failed("list addresses".to_owned(), error))?;
    let mut links: Vec<LinkDetails> = links.iter().map(details).collect();
    for (index, addr) in addrs.iter().filter_map(local_addr) {
        let link = links.iter_mut().find(|it| it.link.index == index);
        link.into_iter().for_each(|link| link.addrs.push(addr));
    }
    Ok(links)
}

fn details(message: &LinkMessage) -> LinkDetails {
    let link = link_of(message);
    let mut found = LinkDetails {
        link,
        kind: None,
        master: None,
        vxlan: None,
        addrs: Vec::new(),
        queue_len: 0,
        far_end: None,
    };
    let (mut namespace, mut far_link) = (None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::Controller(master) = attribute {
            found.master = Some(*master);
        } else if let LinkAttribute::TxQueueLen(len) = attribute {
            found.queue_len = *len;
        } else if let LinkAttribute::LinkNetNsId(id) = attribute {
            namespace = Some(*id);
        } else if let LinkAttribute::Link(index) = attribute {
            far_link = Some(*index);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    found.kind = Some(kind.to_string());
                } else if let LinkInfo::Data(InfoData::Vxlan(settings)) = info {
                    found.vxlan = vxlan(settings);
                }
            }
        }
    }
    found.far_end = namespace.zip(far_link).filter(|_| found.is_kind("veth"));
    found
}

fn vxlan(settings: &[InfoVxlan]) -> Option<(u32, u16)> {
    let (mut vni, mut port) = (None, None);
    for setting in settings {
        if let InfoVxlan::Id(id) = setting {
            vni = Some(*id);
        } else if let InfoVxlan::Port(number) = setting {
            port = Some(*number);
        }
    }
    vni.zip(port)
}

/// Reads the first `max` routes that concern `network`, wholly or in part, of all tables but that of
/// the host's own addresses. Blocks while the kernel answers.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub fn routes_about(network: Ipv4Network, max: usize) -> Result<Vec<RouteDetails>, KernelError> {
    use rtnetlink::packet_route::route::RouteType;
    const RT_TABLE_LOCAL: u32 = 255;
    let mut found = Vec::new();
    dump(|message| {
        let Some(fields) = RouteFields::of(message) else { return };
        let is_about = network.contains(fields.dst.network())
            || (fields.dst.prefix() > 0 && fields.dst.contains(network.network()));
        if found.len() < max && is_about && fields.table != RT_TABLE_LOCAL {
            let kind = message.header.kind;
            let ends = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
            let protocol = message.header.protocol.into();
            found.push(RouteDetails { fields, protocol, is_end: ends.contains(&kind) });
        }
    })
    .map_err(|error| KernelError::new("list routes", error))?;
    Ok(found)
}
