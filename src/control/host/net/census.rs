//! All links of the host in detail, and its routes: for the commands that explain a host.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgePortState, BridgeVlanInfoFlags, InfoBridge, InfoBridgePort, InfoData,
    InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    LinkXdp,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};

use super::netlink::{failed, link_of, local_addr};
use super::scan::dump;
use super::{KernelError, Link, LinkAddr, Mac, Netlink, RouteFields};

/// A link with what it is and has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether somebody switched ARP off for it.
    pub is_without_arp: bool,
    /// The number of the XDP program that gets its packets first.
    pub xdp_program: Option<u32>,
    /// The state in which its bridge lets nothing through: `blocking`.
    pub port_state: Option<&'static str>,
    /// Whether, as a bridge, it keeps VLANs apart.
    pub filters_vlans: bool,
    /// The VLAN that it puts packets without a tag in, on a bridge that keeps VLANs apart.
    pub pvid: Option<u16>,
}

impl LinkDetails {
    /// Whether it has the address `addr`.
    pub fn has(&self, addr: Ipv4Addr) -> bool {
        self.addrs.iter().any(|own| own.addr == addr)
    }

    /// Whether packets leave the host by it: not so with `lo` and dummies.
    pub fn is_a_wire(&self) -> bool {
        self.link.name != "lo" && !self.is_kind("dummy")
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

impl RouteDetails {
    /// `None` for another family.
    pub(super) fn of(message: &RouteMessage) -> Option<Self> {
        let fields = RouteFields::of(message)?;
        let ends = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
        let is_end = ends.contains(&message.header.kind);
        Some(Self { fields, protocol: message.header.protocol.into(), is_end })
    }
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
    if links.iter().any(|it| it.filters_vlans) {
        let brvlan = vec![LinkExtentMask::Brvlan];
        let request = net.handle().link().get().set_filter_mask(AddressFamily::Bridge, brvlan);
        let ports = request.execute().try_collect::<Vec<_>>().await.unwrap_or_default();
        for (index, vlan) in ports.iter().filter_map(pvid) {
            let link = links.iter_mut().find(|it| it.link.index == index);
            link.into_iter().for_each(|link| link.pvid = Some(vlan));
        }
    }
    Ok(links)
}

/// Number and PVID of a port, or of the bridge itself.
fn pvid(message: &LinkMessage) -> Option<(u32, u16)> {
    let vlans = message.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::AfSpecBridge(vlans) = attribute { Some(vlans) } else { None }
    });
    let pvid = vlans.flatten().find_map(|vlan| {
        let AfSpecBridge::VlanInfo(info) = vlan else { return None };
        info.flags.contains(BridgeVlanInfoFlags::Pvid).then_some(info.vid)
    });
    Some((message.header.index, pvid?))
}

fn details(message: &LinkMessage) -> LinkDetails {
    let link = link_of(message);
    let is_without_arp = message.header.flags.contains(LinkFlags::Noarp);
    let mut found = LinkDetails { link, is_without_arp, ..LinkDetails::default() };
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
        } else if let LinkAttribute::Address(bytes) = attribute {
            found.mac = Mac::of(bytes);
        } else if let LinkAttribute::Xdp(settings) = attribute {
            found.xdp_program = xdp_program(settings);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            infos.iter().for_each(|info| take_info(&mut found, info));
        }
    }
    found.far_end = namespace.zip(far_link).filter(|_| found.is_kind("veth"));
    found
}

fn take_info(found: &mut LinkDetails, info: &LinkInfo) {
    if let LinkInfo::Kind(kind) = info {
        found.kind = Some(kind.to_string());
    } else if let LinkInfo::Data(InfoData::Vxlan(settings)) = info {
        found.vxlan = vxlan(settings);
    } else if let LinkInfo::Data(InfoData::Bridge(settings)) = info {
        found.filters_vlans =
            settings.iter().any(|it| matches!(it, InfoBridge::VlanFiltering(true)));
    } else if let LinkInfo::PortData(InfoPortData::BridgePort(settings)) = info {
        found.port_state = settings.iter().find_map(port_state);
    }
}

fn port_state(setting: &InfoBridgePort) -> Option<&'static str> {
    let InfoBridgePort::State(state) = setting else { return None };
    let states = [
        (BridgePortState::Disabled, "disabled"),
        (BridgePortState::Listening, "listening"),
        (BridgePortState::Learning, "learning"),
        (BridgePortState::Blocking, "blocking"),
    ];
    states.into_iter().find(|(of, _)| of == state).map(|(_, word)| word)
}

fn xdp_program(settings: &[LinkXdp]) -> Option<u32> {
    let mut ids = settings.iter().filter_map(|setting| {
        if let LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) = setting {
            Some(*id)
        } else {
            None
        }
    });
    ids.find(|id| *id != 0)
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
    const RT_TABLE_LOCAL: u32 = 255;
    let mut found = Vec::new();
    dump(|message| {
        let Some(route) = RouteDetails::of(message) else { return };
        let fields = &route.fields;
        let is_about = network.contains(fields.dst.network())
            || (fields.dst.prefix() > 0 && fields.dst.contains(network.network()));
        if found.len() < max && is_about && fields.table != RT_TABLE_LOCAL {
            found.push(route);
        }
    })
    .map_err(|error| KernelError::new("list routes", error))?;
    Ok(found)
}
