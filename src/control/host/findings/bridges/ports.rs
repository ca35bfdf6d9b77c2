//! The ports of the bridge on our subnet, to each of which a container is plugged.

use crate::control::host::findings::{Harm, OverlayFacts, Problem};
use crate::control::host::net::LinkDetails;

/// What is wrong with a port of `bridge`, or with it for having none.
pub(super) fn problem(
    bridge: &LinkDetails,
    links: &[LinkDetails],
    overlay: &OverlayFacts,
) -> Option<Problem> {
    let ports = || links.iter().filter(|it| it.master == Some(bridge.link.index));
    if ports().next().is_none() {
        return Some(without_ports(bridge, links));
    }
    let cut_off = ports().find_map(|port| cut_off(port, bridge));
    cut_off.or_else(|| ports().find_map(|port| too_long(port, bridge, overlay)))
}

fn without_ports(bridge: &LinkDetails, links: &[LinkDetails]) -> Problem {
    let name = &bridge.link.name;
    let is_loose =
        |it: &&LinkDetails| it.far_end.is_some() && it.master.is_none() && it.addrs.is_empty();
    match links.iter().find(is_loose) {
        Some(loose) => {
            let loose = &loose.link.name;
            let text = format!(
                "{name} has no port, and {loose}, which leads to a container, is on no bridge"
            );
            let advice = format!("ip link set {loose} master {name}, or restart the container");
            Problem { text, advice, harm: Harm::Loss }
        }
        None => {
            let text = format!("{name} has no port: no container is on it");
            let advice = format!("start a container; `bridge link` shows the ports of {name}");
            Problem { text, advice, harm: Harm::NoneYet }
        }
    }
}

/// A port that passes nothing.
fn cut_off(port: &LinkDetails, bridge: &LinkDetails) -> Option<Problem> {
    let vlan = |it: &LinkDetails| it.pvid.map_or("none".to_owned(), |vlan| vlan.to_string());
    let is_apart = bridge.filters_vlans && port.pvid != bridge.pvid;
    let apart = is_apart.then(|| (vlan(port), vlan(bridge)));
    let (name, bridge) = (&port.link.name, &bridge.link.name);
    let (text, advice) = if !port.link.is_up {
        let text = format!("{name}, a port of {bridge}, is down: its container is cut off");
        (text, format!("ip link set {name} up"))
    } else if !port.link.has_carrier && port.is_kind("veth") {
        let text = format!("the other end of {name}, a port of {bridge}, is down in its container");
        (text, "in the container: ip link set eth0 up; or restart it".to_owned())
    } else if let Some(state) = port.port_state {
        let text =
            format!("{name}, a port of {bridge}, is in state {state}: its container is cut off");
        let advice = format!(
            "bridge -d link show dev {name}; bridge link set dev {name} state 3; if STP did it: ip link \
             set {bridge} type bridge stp_state 0"
        );
        (text, advice)
    } else if let Some((of_port, of_bridge)) = apart {
        let text = format!(
            "{name}, a port of {bridge}, is in VLAN {of_port}, and {bridge} itself in VLAN {of_bridge}: \
             its container is cut off"
        );
        let advice = format!(
            "bridge vlan show; bridge vlan add dev {name} vid {of_bridge} pvid untagged; or ip link set \
             {bridge} type bridge vlan_filtering 0"
        );
        (text, advice)
    } else {
        return None;
    };
    Some(Problem { text, advice, harm: Harm::Loss })
}

/// A port that lets its container send packets that are too long.
fn too_long(port: &LinkDetails, bridge: &LinkDetails, overlay: &OverlayFacts) -> Option<Problem> {
    let (name, mtu, most) = (&port.link.name, port.link.mtu, overlay.mtu);
    // That of the bridge is said for all its ports.
    if mtu <= u32::from(most) || bridge.link.mtu > u32::from(most) {
        return None;
    }
    let (bridge, device) = (&bridge.link.name, &overlay.device);
    let text = format!(
        "{name}, a port of {bridge}, has MTU {mtu}, more than the {most} of {device}: long packets \
         of its container are lost or fragmented"
    );
    let advice = format!("ip link set {name} mtu {most}, and the same for eth0 in the container");
    Some(Problem { text, advice, harm: Harm::LongPackets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::host::net::{Link, LinkAddr};

    fn link(index: u32, name: &str, kind: &str, master: Option<u32>) -> LinkDetails {
        LinkDetails {
            link: Link { index, name: name.to_owned(), mtu: 1472, is_up: true, has_carrier: true },
            kind: Some(kind.to_owned()),
            master,
            queue_len: 1000,
            ..LinkDetails::default()
        }
    }

    fn found(links: &[LinkDetails]) -> Option<(String, Harm)> {
        let (network, subnet) = ("10.5.0.0/16".parse().unwrap(), "10.5.7.0/24".parse().unwrap());
        let overlay = OverlayFacts { network, subnet, device: "flannel0".to_owned(), mtu: 1472 };
        problem(&links[0], links, &overlay).map(|it| (it.text, it.harm))
    }

    fn well() -> [LinkDetails; 2] {
        [link(3, "docker0", "bridge", None), link(5, "veth1", "veth", Some(3))]
    }

    #[test]
    fn port_that_is_up_with_a_carrier_is_well() {
        assert_eq!(found(&well()), None);
    }

    #[test]
    fn port_that_is_down_or_whose_other_end_is_cuts_its_container_off() {
        let mut links = well();
        links[1].link.has_carrier = false;
        let (text, harm) = found(&links).unwrap();
        assert_eq!(harm, Harm::Loss);
        assert_eq!(text, "the other end of veth1, a port of docker0, is down in its container");
        links[1].link.is_up = false;
        let (text, _) = found(&links).unwrap();
        assert_eq!(text, "veth1, a port of docker0, is down: its container is cut off");
    }

    #[test]
    fn port_that_its_bridge_keeps_apart_cuts_its_container_off() {
        let mut links = well();
        links[1].pvid = Some(20);
        assert_eq!(found(&links), None);
        (links[0].filters_vlans, links[0].pvid) = (true, Some(1));
        let (text, _) = found(&links).unwrap();
        assert!(text.contains("is in VLAN 20, and docker0 itself in VLAN 1"), "{text}");
        links[1].port_state = Some("blocking");
        let (text, harm) = found(&links).unwrap();
        assert_eq!(harm, Harm::Loss);
        assert!(text.starts_with("veth1, a port of docker0, is in state blocking"), "{text}");
    }

    #[test]
    fn container_that_is_plugged_nowhere_is_found() {
        let mut links = well();
        (links[1].master, links[1].far_end) = (None, Some((0, 2)));
        let (text, harm) = found(&links).unwrap();
        assert_eq!(harm, Harm::Loss);
        assert!(text.starts_with("docker0 has no port, and veth1, which leads to"), "{text}");
        links[1].addrs.push(LinkAddr { addr: [192, 0, 2, 1].into(), prefix_len: 24 });
        let (_, harm) = found(&links).unwrap();
        assert_eq!(harm, Harm::NoneYet, "a link with an address is no container's");
        assert_eq!(found(&links[..1]).unwrap().0, "docker0 has no port: no container is on it");
    }

    #[test]
    fn port_with_a_larger_mtu_than_the_device_loses_long_packets() {
        let mut links = well();
        links[1].link.mtu = 1500;
        let (text, harm) = found(&links).unwrap();
        assert_eq!(harm, Harm::LongPackets);
        assert!(text.starts_with("veth1, a port of docker0, has MTU 1500, more than the 1472"));
        links[0].link.mtu = 1500;
        assert_eq!(found(&links), None, "the bridge has a line of its own");
    }
}
