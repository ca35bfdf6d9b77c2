//! The interfaces of this host's containers, as far as the kernel lets us see them.

mod outbound;

use std::net::Ipv4Addr;

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::host::findings::{OverlayFacts, bridge_problem};
use crate::control::host::net::{FarEnd, LinkAddr, LinkDetails, NeighbourKind};

const NAME: &str = "containers";

/// Most findings.
const MAX_SHOWN: usize = 4;

pub(super) fn containers(facts: &Facts) -> Vec<Finding> {
    let Some(overlay) = facts.overlay() else { return Vec::new() };
    let bridge = bridge_problem(&facts.links, &overlay).0;
    let bridge = facts.links.iter().find(|it| Some(&it.link.name) == bridge.as_ref());
    let Some(bridge) = bridge else { return Vec::new() };
    let ends = facts.far_ends.iter().filter_map(|end| {
        let near = facts.links.iter().find(|it| it.link.index == end.near)?;
        let is_ours = near.master == Some(bridge.link.index)
            || end.addrs.iter().any(|own| overlay.subnet.contains(own.addr));
        is_ours.then_some((end, near))
    });
    let mut found = Vec::new();
    for (end, near) in ends.clone() {
        found.extend(loose(facts, end, near, bridge));
        for own in &end.addrs {
            found.extend(of_address(facts, &overlay, end, near, own, bridge));
        }
        found.extend(too_long(&overlay, end, near, bridge));
        found.extend(outbound::elsewhere(facts, &overlay, (end, near), bridge));
    }
    found.extend(outbound::same_mac(&ends.clone().collect::<Vec<_>>(), bridge));
    let mut addrs: Vec<(Ipv4Addr, &str)> = ends
        .clone()
        .flat_map(|(end, near)| end.addrs.iter().map(|own| (own.addr, near.link.name.as_str())))
        .collect();
    addrs.sort_unstable();
    for pair in addrs.windows(2) {
        if let [(one, first), (other, second)] = pair
            && one == other
        {
            let text = format!("two containers have {one}: those of {first} and {second}");
            found.push(Finding::fail(
                NAME,
                text,
                "restart one of the two, for an address of its own",
            ));
        }
    }
    if found.is_empty() {
        found = outbound::silent(facts, &ends.clone().collect::<Vec<_>>());
    }
    found.truncate(MAX_SHOWN);
    if found.is_empty() && ends.clone().next().is_some() {
        let text =
            format!("{} on {}, with addresses of its subnet", ends.count(), bridge.link.name);
        found.push(Finding::ok(NAME, text));
    }
    found
}

/// A container whose link leads to no bridge, and has neither address nor route.
fn loose(facts: &Facts, end: &FarEnd, near: &LinkDetails, bridge: &LinkDetails) -> Option<Finding> {
    // A bridge without a port has a line of its own.
    if !facts.links.iter().any(|it| it.master == Some(bridge.link.index)) {
        return None;
    }
    let has_route = facts.routes.iter().any(|it| it.fields.link == Some(near.link.index));
    if near.master.is_some() || !near.addrs.is_empty() || has_route {
        return None;
    }
    let addr = end.addrs.first()?.addr;
    let (name, bridge) = (&near.link.name, &bridge.link.name);
    let text = format!("{name}, which leads to container {addr}, is not a port of {bridge}");
    let advice = format!("ip link set {name} master {bridge}; ip link set {name} up");
    Some(Finding::fail(NAME, text, advice))
}

fn of_address(
    facts: &Facts,
    overlay: &OverlayFacts,
    end: &FarEnd,
    near: &LinkDetails,
    own: &LinkAddr,
    bridge: &LinkDetails,
) -> Option<Finding> {
    let (addr, name) = (own.addr, &near.link.name);
    let subnet = overlay.subnet;
    if let Some(host) = facts.links.iter().find(|it| it.has(addr)) {
        let len = host.addrs.iter().find(|it| it.addr == addr)?.prefix_len;
        let host = &host.link.name;
        let text = format!(
            "{host} of this host and the container at {name} both have {addr}: the container gets \
             no packets"
        );
        return Some(Finding::fail(NAME, text, format!("ip addr del {addr}/{len} dev {host}")));
    }
    if !subnet.contains(addr) {
        if near.master != Some(bridge.link.index) || addr.is_link_local() {
            return None;
        }
        let text = format!(
            "the container at {name} has {addr}, outside of this node's subnet {subnet}: no peer \
             sends here for it"
        );
        return Some(Finding::fail(
            NAME,
            text,
            "restart the container, for an address of the subnet",
        ));
    }
    if own.prefix_len < subnet.prefix() && overlay.network.prefix() >= own.prefix_len {
        let text = format!(
            "the container at {name} has {addr}/{}: it takes all peers to be on its own link",
            own.prefix_len
        );
        let advice = format!("restart it; its address needs the length /{}", subnet.prefix());
        return Some(Finding::fail(NAME, text, advice));
    }
    let wrong = facts
        .neighbours
        .iter()
        .find(|it| it.addr == addr && it.kind == NeighbourKind::Permanent && it.mac != end.mac)?;
    let link = facts.links.iter().find(|it| it.link.index == wrong.link)?;
    let mac = wrong.mac.map_or("none".to_owned(), |mac| mac.to_string());
    let text = format!(
        "container {addr} has a permanent neighbour entry on {} with MAC {mac}, which is not its own",
        link.link.name
    );
    Some(Finding::fail(NAME, text, format!("ip neigh del {addr} dev {}", link.link.name)))
}

/// A container that sends packets which are too long.
fn too_long(
    overlay: &OverlayFacts,
    end: &FarEnd,
    near: &LinkDetails,
    bridge: &LinkDetails,
) -> Option<Finding> {
    let (mtu, most) = (end.link.mtu, u32::from(overlay.mtu));
    // The bridge's MTU and that of its port have a line of their own.
    if mtu <= most || near.link.mtu > most || bridge.link.mtu > most {
        return None;
    }
    let addr = end.addrs.first().map(|own| format!(" {}", own.addr)).unwrap_or_default();
    let (name, inside) = (&near.link.name, &end.link.name);
    let text = format!(
        "container{addr} at {name} has MTU {mtu}, more than the {most} of {}: its long packets are \
         lost",
        overlay.device
    );
    let advice = format!("in the container: ip link set {inside} mtu {most}; or restart it");
    Some(Finding::fail(NAME, text, advice))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;
    use crate::control::host::net::{Link, Mac, Neighbour};

    #[test]
    fn container_on_the_bridge_is_well() {
        assert_eq!(levels(&containers(&facts())), (0, 0));
        assert_eq!(containers(&facts())[0].text, "1 on docker0, with addresses of its subnet");
    }

    #[test]
    fn address_that_the_host_or_another_container_has_too_fails() {
        let mut facts = facts();
        facts.links[2].addrs.push(LinkAddr { addr: [10, 5, 7, 2].into(), prefix_len: 24 });
        let found = only(containers(&facts));
        assert!(found.text.starts_with("docker0 of this host and the container at veth1 both"));
        assert_eq!(found.advice.as_deref(), Some("ip addr del 10.5.7.2/24 dev docker0"));
        facts.links[2].addrs.pop();
        facts.far_ends.push(facts.far_ends[0].clone());
        assert!(only(containers(&facts)).text.starts_with("two containers have 10.5.7.2"));
    }

    #[test]
    fn address_outside_of_the_subnet_or_with_a_short_prefix_fails() {
        let mut facts = facts();
        facts.far_ends[0].addrs[0].prefix_len = 16;
        assert!(only(containers(&facts)).text.contains("10.5.7.2/16: it takes all peers"));
        facts.far_ends[0].addrs[0].addr = [10, 5, 9, 2].into();
        assert!(only(containers(&facts)).text.contains("outside of this node's subnet"));
    }

    #[test]
    fn mtu_of_a_container_alone_fails() {
        let mut facts = facts();
        facts.far_ends[0].link.mtu = 1500;
        let found = only(containers(&facts));
        assert!(found.text.starts_with("container 10.5.7.2 at veth1 has MTU 1500, more than"));
        facts.links[4].link.mtu = 1500;
        assert_eq!(levels(&containers(&facts)), (0, 0), "its port has a line");
    }

    #[test]
    fn container_on_no_bridge_and_wrong_neighbour_entry_fail() {
        let mut facts = facts();
        facts.links[4].master = None;
        assert_eq!(levels(&containers(&facts)), (0, 0), "the bridge has no port");
        let other = LinkDetails { master: Some(3), ..facts.links[4].clone() };
        facts.links.push(LinkDetails { link: Link { index: 6, ..other.link.clone() }, ..other });
        assert!(only(containers(&facts)).text.ends_with("is not a port of docker0"));
        facts.links[4].master = Some(3);
        let (addr, mac) = ([10, 5, 7, 2].into(), Some(Mac([2, 0, 0, 0, 0, 9])));
        facts.neighbours.push(Neighbour { link: 3, addr, mac, kind: NeighbourKind::Permanent });
        let found = only(containers(&facts));
        assert!(found.text.contains("on docker0 with MAC 02:00:00:00:00:09"), "{found:?}");
        assert_eq!(found.advice.as_deref(), Some("ip neigh del 10.5.7.2 dev docker0"));
        facts.neighbours[0].mac = facts.far_ends[0].mac;
        assert_eq!(levels(&containers(&facts)), (0, 0));
    }
}
