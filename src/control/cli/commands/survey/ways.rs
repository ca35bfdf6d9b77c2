//! Whether the host's routes lead to a peer as they should.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{Own, Wire};
use crate::control::host::net::{
    Forwarded, LinkAddr, LinkDetails, Neighbour, NeighbourKind, Netlink, RouteFields,
};
use crate::routes::Prefix;

/// Why packets do not go where they should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct WayProblem {
    pub(in crate::control::cli) text: String,
    pub(in crate::control::cli) advice: String,
}

/// Why packets to `addr`, which the node at `public_ip` has, take another way, or the outer ones to
/// `public_ip` do; `None` if neither does.
pub(in crate::control::cli) async fn way_problem(
    net: &Netlink,
    own: &Own,
    links: &[LinkDetails],
    (addr, public_ip): (Ipv4Addr, Ipv4Addr),
) -> Option<WayProblem> {
    let device = own.device.as_ref()?;
    let text = match net.matched_route(addr).await {
        Ok(Some(route)) => {
            let name = links.iter().find(|it| Some(it.link.index) == route.link);
            let name = name.map_or("", |it| it.link.name.as_str());
            problem(own.wire, &device.name, (addr, public_ip), &route, name)
        }
        Ok(None) => Some(format!("no route leads to {addr}: {} should be routed", own.network)),
        Err(_) => None,
    };
    const ADVICE: &str = "ip route get shows the way; remove that route, or take a Network that no other route is in";
    let inner = text.map(|text| WayProblem { text, advice: ADVICE.to_owned() });
    match (inner, net.sent(own.addr, public_ip).await) {
        (Some(inner), _) => Some(inner),
        (None, Ok(way)) => outer_problem(own.addr, public_ip, way, links),
        (None, Err(_)) => None,
    }
}

/// What is wrong with the way of packets from `own`, the address of the external interface, to a node.
fn outer_problem(
    own: Ipv4Addr,
    public_ip: Ipv4Addr,
    way: Forwarded,
    links: &[LinkDetails],
) -> Option<WayProblem> {
    let iface = links.iter().find(|it| it.has(own))?;
    let shown = format!("ip route get {public_ip} from {own}");
    let route = match way {
        Forwarded::By(route) => route,
        Forwarded::Here => {
            let owner = links.iter().find(|it| it.has(public_ip));
            let owner = owner.map_or("a local route", |it| it.link.name.as_str());
            let text = format!(
                "{owner} of this host has {public_ip}, the public IP of that node: packets to it end here"
            );
            let advice = format!("{shown}; ip addr del {public_ip} dev {owner}");
            return Some(WayProblem { text, advice });
        }
        Forwarded::Refused(number) => {
            let text = match number {
                libc::EINVAL => format!("a blackhole route drops what is for {public_ip}"),
                libc::EACCES => format!("a prohibit route or rule drops what is for {public_ip}"),
                libc::EHOSTUNREACH => format!("an unreachable route drops what is for {public_ip}"),
                _ => format!("this host has no route to {public_ip}"),
            };
            let advice = format!("{shown}; ip rule; ip route show table all");
            return Some(WayProblem { text, advice });
        }
    };
    let link = links.iter().find(|it| Some(it.link.index) == route.link)?;
    let (dst, by) = (route.dst, &link.link.name);
    let table = match route.is_in_main_table() {
        true => String::new(),
        false => format!(" of table {}", route.table),
    };
    // A host may announce an address of `lo` by whatever links it has.
    let is_elsewhere = link.link.index != iface.link.index && iface.is_a_wire();
    let is_on_link = |it: &LinkAddr| {
        Ipv4Network::containing(it.addr, it.prefix_len).is_ok_and(|net| net.contains(public_ip))
    };
    let iface_name = &iface.link.name;
    if is_elsewhere {
        let text = format!(
            "route {dst} by {by}{table} takes what this host sends to {public_ip}, and flanneld's \
             interface is {iface_name}"
        );
        let advice = format!("{shown}; remove that route, or flanneld --iface={by} on every node");
        return Some(WayProblem { text, advice });
    }
    let via = route.gateway.filter(|_| iface.addrs.iter().any(is_on_link))?;
    let text = format!(
        "route {dst}{table} sends what is for {public_ip} to {via}, and {public_ip} is on the link of \
         {iface_name} itself"
    );
    Some(WayProblem { text, advice: format!("{shown}; ip route del {dst} via {via}") })
}

/// A neighbour entry that somebody has set for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct FixedMac {
    pub(in crate::control::cli) addr: Ipv4Addr,
    pub(in crate::control::cli) mac: String,
    pub(in crate::control::cli) link: String,
}

/// The permanent neighbour entry for `public_ip`, or for the router on the way to it.
pub(in crate::control::cli) async fn fixed_mac(
    net: &Netlink,
    links: &[LinkDetails],
    public_ip: Ipv4Addr,
) -> Option<FixedMac> {
    let route = net.matched_route(public_ip).await.ok().flatten()?;
    let addr = route.gateway.unwrap_or(public_ip);
    let neighbours = net.neighbours().await.ok()?;
    let is_it = |it: &&Neighbour| {
        it.addr == addr && Some(it.link) == route.link && it.kind == NeighbourKind::Permanent
    };
    let mac = neighbours.iter().find(is_it)?.mac?.to_string();
    let link = links.iter().find(|it| Some(it.link.index) == route.link)?;
    Some(FixedMac { addr, mac, link: link.link.name.clone() })
}

fn problem(
    wire: Wire,
    device: &str,
    (addr, public_ip): (Ipv4Addr, Ipv4Addr),
    route: &RouteFields,
    link: &str,
) -> Option<String> {
    let is_direct = route.gateway == Some(public_ip);
    let is_right = match wire {
        Wire::Udp { .. } => link == device,
        Wire::Vxlan { .. } => link == device || is_direct,
        Wire::Plain => is_direct,
        // The default route, or another one of the operator's, leads to the cloud's router.
        Wire::Cloud => true,
    };
    if is_right {
        return None;
    }
    let by = match (link, route.gateway) {
        ("", _) => "that leads nowhere".to_owned(),
        (link, None) => format!("by {link}"),
        (link, Some(gateway)) => format!("by {link} via {gateway}"),
    };
    let table = match route.is_in_main_table() {
        true => String::new(),
        false => format!(" of table {}", route.table),
    };
    let should = if wire.is_tunnel() { format!("by {device}") } else { format!("via {public_ip}") };
    let dst = route.dst;
    Some(format!("route {dst} {by}{table} takes the packets to {addr}, which should go {should}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::host::net::Link;

    fn found(wire: Wire, dst: &str, link: &str, gateway: Option<&str>) -> Option<String> {
        let gateway = gateway.map(|text| text.parse().unwrap());
        let route = RouteFields {
            dst: dst.parse().unwrap(),
            table: 254,
            link: Some(3),
            gateway,
            has_gateway: gateway.is_some(),
            metric: 0,
        };
        let ends = ("10.5.9.0".parse().unwrap(), "192.0.2.9".parse().unwrap());
        problem(wire, "flannel0", ends, &route, link)
    }

    fn outer(way: Forwarded) -> Option<String> {
        let link = |index, name: &str, addr: [u8; 4]| LinkDetails {
            link: Link { index, name: name.to_owned(), ..Link::default() },
            addrs: vec![LinkAddr { addr: addr.into(), prefix_len: 24 }],
            ..LinkDetails::default()
        };
        let links = [link(2, "eth0", [192, 0, 2, 1]), link(5, "tun9", [198, 51, 100, 1])];
        let peer = [192, 0, 2, 9].into();
        outer_problem([192, 0, 2, 1].into(), peer, way, &links).map(|it| it.text)
    }

    #[test]
    fn outer_packets_must_leave_by_the_interface_of_flanneld() {
        let by = |link, gateway: Option<[u8; 4]>| {
            Forwarded::By(RouteFields {
                dst: "192.0.2.0/25".parse().unwrap(),
                table: 254,
                link: Some(link),
                gateway: gateway.map(Into::into),
                has_gateway: gateway.is_some(),
                metric: 0,
            })
        };
        assert_eq!(outer(by(2, None)), None);
        let text = "route 192.0.2.0/25 by tun9 takes what this host sends to 192.0.2.9, and flanneld's \
                    interface is eth0";
        assert_eq!(outer(by(5, None)).as_deref(), Some(text));
        let text = outer(by(2, Some([192, 0, 2, 254]))).unwrap();
        assert!(text.starts_with("route 192.0.2.0/25 sends what is for 192.0.2.9 to 192.0.2.254"));
        let text = outer(Forwarded::Refused(libc::EINVAL)).unwrap();
        assert_eq!(text, "a blackhole route drops what is for 192.0.2.9");
        assert!(outer(Forwarded::Here).unwrap().starts_with("a local route of this host has"));
    }

    #[test]
    fn way_by_the_device_or_to_the_peer_itself_is_right() {
        let (udp, vxlan) = (Wire::Udp { port: 8285 }, Wire::Vxlan { port: 8472 });
        assert_eq!(found(udp, "10.5.0.0/16", "flannel0", None), None);
        assert_eq!(found(vxlan, "10.5.9.0/24", "flannel0", Some("10.5.9.0")), None);
        assert_eq!(found(vxlan, "10.5.9.0/24", "eth0", Some("192.0.2.9")), None);
        assert_eq!(found(Wire::Plain, "10.5.9.0/24", "eth0", Some("192.0.2.9")), None);
    }

    #[test]
    fn other_route_is_named() {
        let shadow = found(Wire::Udp { port: 8285 }, "10.5.9.0/24", "eth1", Some("192.0.2.254"));
        let text = "route 10.5.9.0/24 by eth1 via 192.0.2.254 takes the packets to 10.5.9.0, which \
                    should go by flannel0";
        assert_eq!(shadow.as_deref(), Some(text));
        let default = found(Wire::Plain, "0.0.0.0/0", "eth0", Some("192.0.2.254")).unwrap();
        assert!(default.ends_with("should go via 192.0.2.9"), "{default}");
    }
}
