//! Asks the kernel where it forwards packets of containers: rules for tables, strict reverse-path
//! filters and addresses of the host are about those, and not about what this host sends itself.

use std::net::Ipv4Addr;

use super::super::facts::PodWay;
use crate::control::cli::commands::survey::{Own, RegistryFacts};
use crate::control::host::findings::{OverlayFacts, bridge_problem};
use crate::control::host::net::{FarEnd, Forwarded, LinkDetails, Netlink};

/// Most peers whose containers are asked about.
const MAX_PEERS: usize = 256;

/// Most containers of this host that are asked about.
const MAX_PODS: usize = 64;

/// The ways out from one container to each peer, and in from one peer to each container. None without
/// a bridge, which packets could come in by.
pub(super) async fn read(
    netlink: &Netlink,
    own: &Own,
    links: &[LinkDetails],
    registry: &RegistryFacts,
    far_ends: &[FarEnd],
) -> Vec<PodWay> {
    let Some((device, subnet)) = own.device.as_ref().zip(own.subnet) else { return Vec::new() };
    let overlay =
        OverlayFacts { network: own.network, subnet, device: device.name.clone(), mtu: device.mtu };
    let find = |name: &str| links.iter().find(|it| it.link.name == name && it.link.is_up);
    let bridge = bridge_problem(links, &overlay).0;
    let bridge = bridge.as_deref().and_then(find);
    let Some((bridge, device)) = bridge.zip(find(&device.name)) else { return Vec::new() };
    let is_right = |addr: &Ipv4Addr| subnet.contains(*addr);
    let pods = far_ends.iter().flat_map(|end| end.addrs.iter().map(|own| own.addr));
    let mut pods: Vec<Ipv4Addr> = pods.filter(is_right).take(MAX_PODS).collect();
    if pods.is_empty() {
        pods.push(a_container(subnet.network()));
    }
    let others = registry.leases.iter().filter(|lease| lease.subnet != subnet);
    let peers: Vec<Ipv4Addr> =
        others.take(MAX_PEERS).map(|lease| a_container(lease.subnet.network())).collect();
    let (mut found, mut through_device) = (Vec::new(), None);
    for peer in peers {
        let Ok(way) = netlink.forwarded(pods[0], peer, bridge.link.index).await else { continue };
        if matches!(&way, Forwarded::By(route) if route.link == Some(device.link.index)) {
            through_device = through_device.or(Some(peer));
        }
        found.push(pod_way((pods[0], bridge), (peer, device), way));
    }
    // What a peer sends comes in where packets to it go out: vxlan's DirectRouting has peers of both
    // kinds.
    let Some(peer) = through_device else { return found };
    for pod in pods {
        let Ok(way) = netlink.forwarded(peer, pod, device.link.index).await else { continue };
        found.push(pod_way((peer, device), (pod, bridge), way));
    }
    found
}

fn pod_way(
    (src, from): (Ipv4Addr, &LinkDetails),
    (dst, to): (Ipv4Addr, &LinkDetails),
    found: Forwarded,
) -> PodWay {
    let (in_link, out_link) = (from.link.name.clone(), to.link.name.clone());
    PodWay { src, dst, in_link, out_link, found }
}

/// Most bridges give the first container the second address.
fn a_container(network: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.to_bits() | 2)
}
