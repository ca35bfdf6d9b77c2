//! The packets that checks follow through the rules of this host.

use std::net::Ipv4Addr;

use super::super::facts::Facts;
use crate::control::cli::commands::survey::Wire;
use crate::control::host::findings::{OverlayFacts, bridge_problem};
use crate::control::host::firewall::trace::{Packet, Way};

/// IANA's protocol numbers.
const ICMP: u8 = 1;
const UDP: u8 = 17;

/// Most containers and peers whose packets are followed.
const MOST: usize = 4;

/// Datagrams between this host and the node at `peer`: one that comes and one that goes. `None` if there
/// are none.
pub(super) fn outer(facts: &Facts, peer: Ipv4Addr) -> Option<[Packet; 2]> {
    let (own, iface) = (facts.own.as_ref()?, facts.iface.as_ref()?);
    let port = own.wire.port()?;
    // vxlan has another source port for each flow.
    let src_port = if matches!(own.wire, Wire::Vxlan { .. }) { 49_152 } else { port };
    let came = Packet {
        way: Way::Input,
        src: peer,
        dst: own.addr,
        in_link: Some(iface.name.clone()),
        out_link: None,
        protocol: UDP,
        src_port: Some(src_port),
        dst_port: Some(port),
    };
    let goes = Packet {
        way: Way::Output,
        src: own.addr,
        dst: peer,
        in_link: None,
        out_link: came.in_link.clone(),
        ..came.clone()
    };
    Some([came, goes])
}

/// Packets between the container of this host and the one of a peer: one that goes and one that comes.
pub(super) fn inner(
    facts: &Facts,
    overlay: &OverlayFacts,
    container: Ipv4Addr,
    peer: Ipv4Addr,
) -> [Packet; 2] {
    let bridge = bridge_problem(&facts.links, overlay).0;
    let device = Some(overlay.device.clone());
    let goes = Packet {
        way: Way::Forward,
        src: container,
        dst: peer,
        in_link: bridge.clone(),
        out_link: device.clone(),
        protocol: ICMP,
        src_port: None,
        dst_port: None,
    };
    let comes =
        Packet { src: peer, dst: container, in_link: device, out_link: bridge, ..goes.clone() };
    [goes, comes]
}

/// The nodes whose datagrams are followed: one, and those that are not reached.
pub(super) fn peers(facts: &Facts) -> Vec<Ipv4Addr> {
    let public_ip = facts.own.as_ref().map(|own| own.public_ip);
    let leases = facts.registry.leases.iter().map(|lease| lease.public_ip);
    let first = leases.into_iter().find(|addr| Some(*addr) != public_ip);
    let mut found = vec![first.unwrap_or(Ipv4Addr::new(192, 0, 2, 1))];
    let bad = facts.peers.iter().filter(|peer| !peer.verdict.ok).map(|peer| peer.public_ip);
    found.extend(bad.filter(|addr| Some(*addr) != first).take(MOST));
    found
}

/// The containers of this host whose packets are followed.
pub(super) fn containers(facts: &Facts, overlay: &OverlayFacts) -> Vec<Ipv4Addr> {
    let addrs = facts.far_ends.iter().flat_map(|end| end.addrs.iter().map(|own| own.addr));
    addrs.filter(|addr| overlay.subnet.contains(*addr)).take(MOST).collect()
}

/// A container of some peer, or of one that could be.
pub(super) fn a_peers_container(facts: &Facts, overlay: &OverlayFacts) -> Ipv4Addr {
    Ipv4Addr::from_bits(facts.a_peers_subnet(overlay).to_bits() + 2)
}
