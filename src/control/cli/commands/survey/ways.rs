//! Whether the host's routes lead to a peer as they should.

use std::net::Ipv4Addr;

use super::{Own, Wire};
use crate::control::host::net::{LinkDetails, Neighbour, NeighbourKind, Netlink, RouteFields};

/// Why packets to `addr`, which the node at `public_ip` has, take another way; `None` if they do not.
pub(in crate::control::cli) async fn way_problem(
    net: &Netlink,
    own: &Own,
    links: &[LinkDetails],
    (addr, public_ip): (Ipv4Addr, Ipv4Addr),
) -> Option<String> {
    let device = own.device.as_ref()?;
    match net.matched_route(addr).await {
        Ok(Some(route)) => {
            let name = links.iter().find(|it| Some(it.link.index) == route.link);
            let name = name.map_or("", |it| it.link.name.as_str());
            problem(own.wire, &device.name, (addr, public_ip), &route, name)
        }
        Ok(None) => Some(format!("no route leads to {addr}: {} should be routed", own.network)),
        Err(_) => None,
    }
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
