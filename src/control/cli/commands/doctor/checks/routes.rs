//! Routes of the host that take packets of the overlay, or that the overlay takes.

use ipnetwork::Ipv4Network;

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::cli::commands::survey::Wire;
use crate::control::host::net::{LinkAddr, LinkDetails, ROUTE_PROTOCOL, RouteDetails};

/// `RTPROT_KERNEL`: the route of an address, rtnetlink(7).
const KERNEL_PROTOCOL: u8 = 2;

/// Most findings of one kind.
const MAX_SHOWN: usize = 8;

/// Routes to parts of the network that are not of the overlay.
pub(super) fn ways(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "routes";
    let Some(own) = &facts.own else { return Vec::new() };
    let name = |route: &RouteDetails| {
        let link = facts.links.iter().find(|it| Some(it.link.index) == route.fields.link);
        link.map_or("", |it| it.link.name.as_str())
    };
    let device = own.device.as_ref().map(|device| device.name.as_str());
    let is_peers = |dst: Ipv4Network| {
        facts
            .registry
            .leases
            .iter()
            .any(|lease| Some(lease.subnet) != own.subnet && lease.subnet == dst)
    };
    // Entries for peers, which the backends without a TUN device make one by one.
    let has_entries = !matches!(own.wire, Wire::Udp { .. });
    let mut found = Vec::new();
    for route in &facts.routes {
        let (dst, link) = (route.fields.dst, name(route));
        let is_inside = dst.prefix() > own.network.prefix() && own.network.contains(dst.network());
        let is_of_bridge = own.subnet.is_some_and(|subnet| subnet.contains(dst.network()));
        let is_of_device = own.wire.is_tunnel() && Some(link) == device;
        let is_entry = has_entries && is_peers(dst) && !route.is_end;
        // Tables of the operator's own rules count where a peer is asked.
        let is_asked = route.fields.is_in_main_table();
        // Such a route goes with its address, which has a line of its own.
        let is_of_address = route.protocol == KERNEL_PROTOCOL
            && facts.links.iter().any(|it| {
                it.link.name == link && it.addrs.iter().any(|own| dst.contains(own.addr))
            });
        if !is_asked || !is_inside || is_of_address || is_of_bridge || is_of_device || is_entry {
            continue;
        }
        let by = if route.is_end { "that drops".to_owned() } else { format!("by {link}") };
        let advice = format!("ip route show {dst}; ip route del {dst}, or take another Network");
        found.push(if route.protocol == ROUTE_PROTOCOL {
            let text =
                format!("route {dst} {by} is left of an earlier flanneld (proto {ROUTE_PROTOCOL})");
            Finding::warn(NAME, text, advice)
        } else {
            let network = own.network;
            let text = format!(
                "route {dst} {by} lies in Network {network}: packets there leave the overlay"
            );
            Finding::fail(NAME, text, advice)
        });
        if found.len() == MAX_SHOWN {
            break;
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(NAME, format!("none takes packets of {} elsewhere", own.network)));
    }
    found
}

/// Addresses of the underlay that the network covers, and addresses of containers that this host has.
pub(super) fn overlaps(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "overlap";
    let advice = "take a Network that no host and no router is in";
    let told = facts.overlaps.iter().map(|text| Finding::warn(NAME, text.clone(), advice));
    let mut found: Vec<Finding> = told.collect();
    let Some(own) = &facts.own else { return found };
    for it in &facts.links {
        let inside = it.addrs.iter().filter(|addr| own.network.contains(addr.addr));
        for addr in inside.filter(|addr| !is_overlays(facts, it, addr)) {
            if found.len() == MAX_SHOWN {
                return found;
            }
            let (name, LinkAddr { addr, prefix_len }) = (&it.link.name, addr);
            let lease = facts.registry.leases.iter().find(|lease| lease.subnet.contains(*addr));
            found.extend(match lease {
                // The usual check of the interface's address says it.
                None if !facts.overlaps.is_empty() => None,
                None => {
                    let network = own.network;
                    let text =
                        format!("{name} has {addr}/{prefix_len}, which lies in Network {network}");
                    Some(Finding::fail(NAME, text, advice))
                }
                Some(lease) => {
                    let whose = match Some(lease.subnet) == own.subnet {
                        true => "this node".to_owned(),
                        false => lease.public_ip.to_string(),
                    };
                    let text = format!(
                        "{name} of this host has {addr}/{prefix_len}, of the subnet {} of {whose}: \
                         packets to a container with that address end here",
                        lease.subnet
                    );
                    let advice = format!("ip addr del {addr}/{prefix_len} dev {name}");
                    Some(Finding::fail(NAME, text, advice))
                }
            });
        }
    }
    found
}

/// Whether an address of the network is where it should be, or has a line of its own.
fn is_overlays(facts: &Facts, link: &LinkDetails, addr: &LinkAddr) -> bool {
    let Some(own) = &facts.own else { return true };
    let is_device = own.device.as_ref().is_some_and(|device| device.name == link.link.name);
    let is_in_ours = own.subnet.is_some_and(|subnet| subnet.contains(addr.addr));
    if is_device || link.is_kind("vxlan") || link.link.name.starts_with("flannel") {
        // The address that flannel gives it is the first one of the subnet.
        return own.subnet.is_none_or(|subnet| subnet.network() == addr.addr);
    }
    let is_containers = facts.far_ends.iter().any(|end| end.has(addr.addr));
    if is_in_ours && is_containers {
        return true;
    }
    if link.is_kind("bridge") {
        let first =
            link.addrs.iter().find(|it| own.subnet.is_some_and(|our| our.contains(it.addr)));
        return match first {
            Some(first) => first == addr,
            None => true,
        };
    }
    // Point-to-point plugins give the host's end of each link the gateway's address.
    is_in_ours && link.far_end.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, link, only};
    use super::*;
    use crate::control::host::net::RouteFields;

    fn with_route(dst: &str, link: u32, protocol: u8) -> Facts {
        let dst = dst.parse().unwrap();
        let (gateway, has_gateway, link) = (None, false, Some(link));
        let fields = RouteFields { dst, table: 254, link, gateway, has_gateway, metric: 0 };
        let mut facts = facts();
        facts.routes.push(RouteDetails { fields, protocol, is_end: false });
        facts
    }

    #[test]
    fn routes_of_overlay_and_bridge_are_right() {
        assert_eq!(levels(&ways(&facts())), (0, 0));
        assert_eq!(levels(&overlaps(&facts())), (0, 0));
        assert_eq!(levels(&ways(&with_route("10.5.7.0/24", 3, 2))), (0, 0));
        assert_eq!(levels(&ways(&with_route("10.5.9.0/24", 4, 3))), (0, 0));
    }

    #[test]
    fn route_into_the_network_that_goes_elsewhere_fails() {
        let found = only(ways(&with_route("10.5.9.0/24", 2, 4)));
        assert!(found.text.starts_with("route 10.5.9.0/24 by eth0 lies in Network 10.5.0.0/16"));
    }

    #[test]
    fn route_left_of_an_earlier_run_warns_with_udp_and_is_right_with_host_gw() {
        let mut facts = with_route("10.5.9.0/24", 2, ROUTE_PROTOCOL);
        assert_eq!(levels(&ways(&facts)), (1, 0));
        facts.own.as_mut().unwrap().wire = Wire::Plain;
        assert_eq!(levels(&ways(&facts)), (0, 0));
    }

    #[test]
    fn link_with_an_address_of_the_network_fails() {
        let mut facts = facts();
        facts.links.push(link(9, "eth1", None, "10.5.200.3/24", 1500));
        assert!(only(overlaps(&facts)).text.starts_with("eth1 has 10.5.200.3/24, which lies in"));
        facts.overlaps = vec!["Network 10.5.0.0/16 covers x".to_owned()];
        assert_eq!(levels(&overlaps(&facts)), (1, 0));
    }

    #[test]
    fn address_of_a_container_that_the_host_has_fails() {
        for (addr, whose) in [([10, 5, 9, 2], "192.0.2.9"), ([10, 5, 7, 77], "this node")] {
            let mut facts = facts();
            facts.links[2].addrs.push(LinkAddr { addr: addr.into(), prefix_len: 24 });
            let found = only(overlaps(&facts));
            assert!(
                found.text.contains(&format!("of {whose}: packets to a container")),
                "{found:?}"
            );
            assert!(found.advice.unwrap().starts_with("ip addr del 10.5."));
        }
        let mut facts = facts();
        facts.links[2].addrs.push(LinkAddr { addr: [10, 5, 7, 2].into(), prefix_len: 24 });
        assert!(overlaps(&facts).is_empty(), "the container has a line");
    }
}
