//! What a container does with packets to other nodes: its own routes, and its hardware address.

use std::net::Ipv4Addr;

use super::NAME;
use crate::control::cli::commands::doctor::facts::Facts;
use crate::control::cli::commands::doctor::finding::Finding;
use crate::control::host::findings::OverlayFacts;
use crate::control::host::net::{FarEnd, LinkDetails, RouteDetails};

/// A container that sends what is for other nodes elsewhere than to `bridge`.
pub(super) fn elsewhere(
    facts: &Facts,
    overlay: &OverlayFacts,
    (end, near): (&FarEnd, &LinkDetails),
    bridge: &LinkDetails,
) -> Option<Finding> {
    if near.master != Some(bridge.link.index) || !end.link.is_up {
        return None;
    }
    let own = end.addrs.iter().find(|own| overlay.subnet.contains(own.addr));
    let name = &near.link.name;
    let Some(own) = own else {
        let text = format!("the container at {name} has no IPv4 address: nobody reaches it");
        let advice = "in the container: ip -4 addr; restart it";
        return end.addrs.is_empty().then(|| Finding::fail(NAME, text, advice));
    };
    let router = bridge.addrs.iter().find(|it| overlay.subnet.contains(it.addr))?.addr;
    let advice = format!("in the container: ip route replace default via {router}; or restart it");
    let fails = |text: String| Some(Finding::fail(NAME, text, advice.clone()));
    // Its address may have taken the route, which has a line of its own.
    let is_too_wide = own.prefix_len < overlay.subnet.prefix();
    let peer = facts.a_peers_subnet(overlay);
    let addr = own.addr;
    match end.routes.as_ref()?.to(peer) {
        None => fails(format!("container {addr} at {name} has no route to other nodes")),
        Some(RouteDetails { fields, is_end: true, .. }) => {
            let dst = fields.dst;
            let text = format!("route {dst} of container {addr} at {name} drops its packets");
            let advice = format!("in the container: ip route show {dst}; ip route del {dst}");
            Some(Finding::fail(NAME, text, advice))
        }
        Some(RouteDetails { fields, .. }) => {
            let dst = fields.dst;
            let inside = &end.link.name;
            match (fields.link, fields.gateway) {
                (Some(link), _) if link != end.link.index => fails(format!(
                    "route {dst} of container {addr} at {name} leads by another interface than {inside}"
                )),
                (Some(_), Some(via)) if !bridge.has(via) => fails(format!(
                    "route {dst} of container {addr} at {name} leads to {via}, which {} does not have",
                    bridge.link.name
                )),
                (Some(_), None) if !fields.has_gateway && !is_too_wide => fails(format!(
                    "route {dst} of container {addr} at {name} leads to no router: it takes other \
                     nodes to be on its own link"
                )),
                (Some(_), _) | (None, _) => None,
            }
        }
    }
}

/// A container that does not answer this host itself.
pub(super) fn silent(facts: &Facts, ends: &[(&FarEnd, &LinkDetails)]) -> Vec<Finding> {
    let at = |addr: Ipv4Addr| {
        let (_, near) = ends.iter().find(|(end, _)| end.has(addr))?;
        let text = format!(
            "container {addr} at {} answers no echo request of this host: it has a firewall of its own, \
             or something between drops packets",
            near.link.name
        );
        let advice =
            format!("ping {addr}; in the container: ip rule; iptables -L -nv; nft list ruleset");
        Some(Finding::warn(NAME, text, advice))
    };
    facts.silent_containers.iter().filter_map(|addr| at(*addr)).collect()
}

/// Two ends on one bridge with one hardware address.
pub(super) fn same_mac(ends: &[(&FarEnd, &LinkDetails)], bridge: &LinkDetails) -> Option<Finding> {
    let on_bridge = ends.iter().filter(|(_, near)| near.master == Some(bridge.link.index));
    let mut macs: Vec<_> =
        on_bridge.filter_map(|(end, near)| Some((end.mac?.0, end.mac?, near))).collect();
    macs.sort_unstable_by_key(|(bytes, _, near)| (*bytes, near.link.index));
    let pair = macs.windows(2).find(|pair| {
        matches!(pair, [(one, _, near), (other, _, next)]
            if one == other && near.link.index != next.link.index)
    });
    let [(_, mac, one), (_, _, other)] = pair? else { return None };
    let (one, other) = (&one.link.name, &other.link.name);
    let text = format!("two containers have MAC {mac}: those of {one} and {other}");
    Some(Finding::fail(NAME, text, "restart one of the two, for a MAC of its own"))
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{facts, levels, only};
    use super::super::containers;
    use super::*;
    use crate::control::host::net::{ContainerRoutes, Link, LinkAddr, RouteFields};

    fn route(dst: &str, gateway: Option<[u8; 4]>, link: u32) -> RouteDetails {
        let (dst, has_gateway) = (dst.parse().unwrap(), gateway.is_some());
        let (gateway, link) = (gateway.map(Into::into), Some(link));
        let fields = RouteFields { dst, table: 254, link, gateway, has_gateway, metric: 0 };
        RouteDetails { fields, protocol: 3, is_end: false }
    }

    fn with_routes(routes: &[RouteDetails]) -> Vec<Finding> {
        let mut facts = facts();
        facts.far_ends[0].routes = Some(ContainerRoutes(routes.to_vec()));
        containers(&facts)
    }

    #[test]
    fn routes_of_a_container_must_lead_to_the_bridge() {
        let link = route("10.5.7.0/24", None, 2);
        let right = [route("0.0.0.0/0", Some([10, 5, 7, 1]), 2), link];
        assert_eq!(levels(&with_routes(&right)), (0, 0));
        let found = only(with_routes(&[link]));
        assert_eq!(found.text, "container 10.5.7.2 at veth1 has no route to other nodes");
        let advice = "in the container: ip route replace default via 10.5.7.1; or restart it";
        assert_eq!(found.advice.as_deref(), Some(advice));
        let other = route("0.0.0.0/0", Some([10, 5, 7, 254]), 2);
        let found = only(with_routes(&[other, link]));
        assert!(found.text.ends_with("leads to 10.5.7.254, which docker0 does not have"));
        let by_other = route("10.0.0.0/8", Some([10, 5, 7, 1]), 9);
        let found = only(with_routes(&[right[0], by_other]));
        assert!(found.text.ends_with("leads by another interface than eth0"), "{found:?}");
        let on_link = route("10.5.0.0/16", None, 2);
        assert!(only(with_routes(&[right[0], on_link])).text.contains("leads to no router"));
        let drops = RouteDetails { is_end: true, ..on_link };
        assert!(only(with_routes(&[right[0], drops])).text.ends_with("drops its packets"));
    }

    #[test]
    fn container_that_does_not_answer_this_host_warns_if_nothing_else_is_wrong() {
        let mut facts = facts();
        facts.silent_containers = vec![[10, 5, 7, 2].into()];
        let found = only(containers(&facts));
        assert!(found.text.starts_with("container 10.5.7.2 at veth1 answers no echo request"));
        facts.far_ends[0].addrs[0].prefix_len = 16;
        assert!(only(containers(&facts)).text.contains("takes all peers to be on its own link"));
    }

    #[test]
    fn container_without_an_address_fails() {
        let mut facts = facts();
        facts.far_ends[0].addrs.clear();
        let found = only(containers(&facts));
        assert_eq!(found.text, "the container at veth1 has no IPv4 address: nobody reaches it");
    }

    #[test]
    fn containers_with_one_mac_fail() {
        let mut facts = facts();
        let port = facts.links[4].clone();
        let link = Link { index: 6, name: "veth2".to_owned(), ..port.link.clone() };
        facts.links.push(LinkDetails { link, ..port });
        let addrs = vec![LinkAddr { addr: [10, 5, 7, 3].into(), prefix_len: 24 }];
        facts.far_ends.push(FarEnd { near: 6, addrs, ..facts.far_ends[0].clone() });
        let found = only(containers(&facts));
        let text = "two containers have MAC 02:00:00:00:00:02: those of veth1 and veth2";
        assert_eq!(found.text, text);
    }
}
