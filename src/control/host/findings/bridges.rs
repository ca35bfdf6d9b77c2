//! Bridges of containers: whether they are on the overlay.

mod ports;

use std::net::Ipv4Addr;

use super::{Harm, OverlayFacts, Problem};
use crate::control::host::net::{LinkAddr, LinkDetails};

/// Names that flannel's users give their bridges: Docker, CNI, kubenet.
const NAMES: [&str; 3] = ["docker0", "cni0", "cbr0"];

/// A bridge that containers are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeFacts {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its addresses, each with the length of its prefix.
    pub addrs: Vec<LinkAddr>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// The bridges of containers, with what is wrong with them.
pub fn bridges(links: &[LinkDetails], overlay: &OverlayFacts) -> Vec<BridgeFacts> {
    let ours = of_containers(links, overlay).find(|it| is_ours(it, overlay));
    let facts = |it: &LinkDetails| {
        let is_on_it = ours.is_some_and(|ours| ours.link.index == it.link.index);
        let problem = elsewhere(it, overlay, ours);
        let own = || own_problem(it, links, overlay);
        let problem = problem.or_else(|| if is_on_it { own() } else { None });
        let problem = problem.or_else(|| without_address(it, overlay, ours));
        let problem = problem.filter(|it| it.harm != Harm::NoneYet).map(|it| it.text);
        let (name, mtu) = (it.link.name.clone(), it.link.mtu);
        BridgeFacts { name, mtu, addrs: it.addrs.clone(), problem }
    };
    of_containers(links, overlay).map(facts).collect()
}

fn is_ours(it: &LinkDetails, overlay: &OverlayFacts) -> bool {
    it.addrs.iter().any(|own| overlay.subnet.contains(own.addr))
}

/// Bridges that containers are on: those with an address of our subnet or the network, and those of
/// the usual names.
fn of_containers<'a>(
    links: &'a [LinkDetails],
    overlay: &'a OverlayFacts,
) -> impl Iterator<Item = &'a LinkDetails> {
    links.iter().filter(|it| {
        it.is_kind("bridge")
            && (NAMES.contains(&it.link.name.as_str())
                || it.addrs.iter().any(|own| overlay.network.contains(own.addr)))
    })
}

/// The bridge with an address of our subnet, and the first problem with bridges.
pub fn bridge_problem(
    links: &[LinkDetails],
    overlay: &OverlayFacts,
) -> (Option<String>, Option<Problem>) {
    let ours = of_containers(links, overlay).find(|it| is_ours(it, overlay));
    let elsewhere = of_containers(links, overlay).find_map(|it| elsewhere(it, overlay, ours));
    let problem = elsewhere.or_else(|| ours.and_then(|it| own_problem(it, links, overlay)));
    let without =
        || of_containers(links, overlay).find_map(|it| without_address(it, overlay, ours));
    let problem = problem.or_else(without);
    (ours.map(|it| it.link.name.clone()), problem)
}

/// A bridge whose containers have addresses that no peer sends here.
fn elsewhere(
    it: &LinkDetails,
    overlay: &OverlayFacts,
    ours: Option<&LinkDetails>,
) -> Option<Problem> {
    let own = it.addrs.iter().find(|own| !overlay.subnet.contains(own.addr))?;
    // Docker's own bridge does no harm where containers are on another one.
    if it.addrs.len() > 1 || (ours.is_some() && !overlay.network.contains(own.addr)) {
        return None;
    }
    let (name, subnet) = (&it.link.name, overlay.subnet);
    let bridge = Ipv4Addr::from_bits(subnet.network().to_bits() | 1);
    let text = format!(
        "{name} has {}/{}, outside of this node's subnet {subnet}: its containers do not reach \
         the overlay",
        own.addr, own.prefix_len
    );
    let advice = format!(
        "restart what makes {name} with FLANNEL_SUBNET of subnet.env: for docker \
         --bip={bridge}/{}",
        subnet.prefix()
    );
    let harm = if it.link.has_carrier { Harm::Loss } else { Harm::NoneYet };
    Some(Problem { text, advice, harm })
}

/// A bridge that is no router for its containers, while no other one is.
fn without_address(
    it: &LinkDetails,
    overlay: &OverlayFacts,
    ours: Option<&LinkDetails>,
) -> Option<Problem> {
    // Without a port, it is not in use yet.
    if ours.is_some() || !it.addrs.is_empty() || !it.link.has_carrier {
        return None;
    }
    let (name, subnet) = (&it.link.name, overlay.subnet);
    let addr = Ipv4Addr::from_bits(subnet.network().to_bits() | 1);
    let text = format!("{name} has no IPv4 address: its containers reach no other host");
    let advice =
        format!("ip addr add {addr}/{} dev {name}, or restart what makes {name}", subnet.prefix());
    Some(Problem { text, advice, harm: Harm::Loss })
}

/// What is wrong with the bridge on our subnet.
fn own_problem(it: &LinkDetails, links: &[LinkDetails], overlay: &OverlayFacts) -> Option<Problem> {
    down(it).or_else(|| ports::problem(it, links, overlay)).or_else(|| mtu(it, overlay))
}

/// A bridge that is switched off, which is not one without a port.
fn down(it: &LinkDetails) -> Option<Problem> {
    if it.link.is_up {
        return None;
    }
    let name = &it.link.name;
    let text = format!("{name} is down: its containers reach nobody");
    Some(Problem { text, advice: format!("ip link set {name} up"), harm: Harm::Loss })
}

/// A bridge that lets containers send packets that are too long.
fn mtu(it: &LinkDetails, overlay: &OverlayFacts) -> Option<Problem> {
    let (name, mtu) = (&it.link.name, it.link.mtu);
    // Without a port the bridge's MTU says nothing.
    if mtu <= u32::from(overlay.mtu) || !it.link.has_carrier {
        return None;
    }
    let (device, most) = (&overlay.device, overlay.mtu);
    let text = format!(
        "{name} has MTU {mtu}, more than the {most} of {device}: long packets of its containers are \
         lost or fragmented"
    );
    let advice = format!(
        "restart what makes {name} with FLANNEL_MTU of subnet.env: for docker --mtu={most}; then \
         its containers"
    );
    Some(Problem { text, advice, harm: Harm::LongPackets })
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv4Network;

    use super::*;
    use crate::control::host::net::Link;

    fn bridge(name: &str, addr: &str, mtu: u32) -> LinkDetails {
        let addr: Ipv4Network = addr.parse().unwrap();
        let name = name.to_owned();
        LinkDetails {
            link: Link { index: 5, name, mtu, is_up: true, has_carrier: true },
            kind: Some("bridge".to_owned()),
            addrs: vec![LinkAddr { addr: addr.ip(), prefix_len: addr.prefix() }],
            queue_len: 1000,
            ..LinkDetails::default()
        }
    }

    fn found(links: &[LinkDetails]) -> (Option<String>, Option<String>) {
        let (network, subnet) = ("10.5.0.0/16".parse().unwrap(), "10.5.7.0/24".parse().unwrap());
        let device = "flannel0".to_owned();
        let overlay = OverlayFacts { network, subnet, device, mtu: 1472 };
        let mut port = bridge("veth1", "192.0.2.1/32", 1472);
        (port.kind, port.master, port.link.index) = (Some("veth".to_owned()), Some(5), 6);
        let links = [links, &[port]].concat();
        let (bridge, problem) = bridge_problem(&links, &overlay);
        (bridge, problem.map(|it| it.text))
    }

    #[test]
    fn bridge_on_our_subnet_is_well_whatever_docker0_has_besides() {
        let ours = bridge("cni0", "10.5.7.1/24", 1472);
        let docker = bridge("docker0", "172.17.0.1/16", 1500);
        let name = Some("cni0".to_owned());
        assert_eq!(found(&[docker.clone(), ours]), (name, None));
        assert_eq!(found(&[bridge("br-lan", "192.168.1.1/24", 1500)]), (None, None));
        let (none, problem) = found(&[docker]);
        assert_eq!(none, None);
        assert!(problem.unwrap().starts_with("docker0 has 172.17.0.1/16, outside of"));
    }

    #[test]
    fn bridge_of_an_earlier_lease_and_one_with_a_larger_mtu_are_problems() {
        let ours = bridge("cni0", "10.5.7.1/24", 1472);
        let earlier = bridge("docker0", "10.5.8.1/24", 1472);
        let (_, problem) = found(&[ours, earlier]);
        assert!(problem.unwrap().starts_with("docker0 has 10.5.8.1/24, outside of"));
        let long = bridge("docker0", "10.5.7.1/24", 1500);
        let text = found(std::slice::from_ref(&long)).1.unwrap();
        assert!(text.starts_with("docker0 has MTU 1500, more than the 1472 of flannel0"), "{text}");
        let mut empty = long;
        empty.link.has_carrier = false;
        assert_eq!(found(&[empty]).1, None);
    }

    #[test]
    fn bridge_that_is_down_is_a_problem_and_one_without_a_port_is_none() {
        let mut ours = bridge("docker0", "10.5.7.1/24", 1472);
        ours.link.has_carrier = false;
        assert_eq!(found(std::slice::from_ref(&ours)).1, None);
        ours.link.is_up = false;
        let text = found(&[ours]).1.unwrap();
        assert_eq!(text, "docker0 is down: its containers reach nobody");
    }

    #[test]
    fn bridge_without_an_address_is_a_problem_unless_another_one_is_ours() {
        let mut docker = bridge("docker0", "10.5.7.1/24", 1472);
        docker.addrs.clear();
        let text = found(std::slice::from_ref(&docker)).1.unwrap();
        assert_eq!(text, "docker0 has no IPv4 address: its containers reach no other host");
        let ours = bridge("cni0", "10.5.7.1/24", 1472);
        assert_eq!(found(&[docker.clone(), ours]).1, None);
        docker.link.has_carrier = false;
        assert_eq!(found(&[docker]), (None, None));
    }

    #[test]
    fn bridge_without_containers_does_no_harm_yet() {
        let (network, subnet) = ("10.5.0.0/16".parse().unwrap(), "10.5.7.0/24".parse().unwrap());
        let device = "flannel0".to_owned();
        let overlay = OverlayFacts { network, subnet, device, mtu: 1472 };
        let mut docker = bridge("docker0", "172.17.0.1/16", 1500);
        let harm =
            |it: &LinkDetails| bridge_problem(std::slice::from_ref(it), &overlay).1.unwrap().harm;
        assert_eq!(harm(&docker), Harm::Loss);
        assert!(bridges(std::slice::from_ref(&docker), &overlay)[0].problem.is_some());
        docker.link.has_carrier = false;
        assert_eq!(harm(&docker), Harm::NoneYet);
        assert_eq!(bridges(&[docker], &overlay)[0].problem, None);
    }
}
