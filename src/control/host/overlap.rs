//! A Network that covers addresses of the underlay: once it is routed to the overlay, they may be
//! unreachable.
//!
//! Addresses with a longer route stay reachable, such as hosts on the interface's own link: that is
//! only a warning. If no etcd endpoint would be reachable, or the default gateway would not, the node
//! does not start. See `docs/adr/0015-overlap-and-neighbours.md`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::time::timeout;

use super::iface::ExternalInterface;
use crate::control::host::net::{HostNet, Netlink, RouteFields};

/// How long a name may take to be looked up.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// A documentation address, which the host reaches by its default route: RFC 5737.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What the Network would cut the node off from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Network {network} covers {what}, which no longer route leads to: it would be out of reach once \
     the Network is routed to the overlay; take another Network, or add a route to {addr} first"
)]
pub struct OverlapError {
    network: Ipv4Network,
    what: String,
    addr: Ipv4Addr,
}

/// An address of the underlay that lies in the Network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Covered {
    /// What it is: `etcd endpoint 192.168.99.5`.
    what: String,
    addr: Ipv4Addr,
    /// No longer route leads to it.
    is_lost: bool,
}

/// Looks for addresses of the underlay in `network`: those of `iface`, of the default gateway, of
/// etcd's `endpoints` and of `peers`. Returns a line for each that is worth a warning.
///
/// # Errors
/// [`OverlapError`] if the node could not live with it.
pub(crate) async fn check(
    net: &Netlink,
    network: Ipv4Network,
    iface: &ExternalInterface,
    endpoints: &[(String, Ipv4Addr)],
    peers: &[Ipv4Addr],
) -> Result<Vec<String>, OverlapError> {
    let mut covered = Vec::new();
    if network.contains(iface.addr) {
        let what = format!("address {} of interface {}", iface.addr, iface.name);
        covered.push(Covered { what, addr: iface.addr, is_lost: false });
    }
    let default = net.matched_route(FAR_AWAY).await.ok().flatten();
    let gateway = default.and_then(|route| route.gateway).filter(|addr| network.contains(*addr));
    let mut fatal = None;
    if let Some(addr) = gateway {
        let found = look(net, network, format!("the default gateway {addr}"), addr).await;
        fatal = Some(found.clone()).filter(|found| found.is_lost);
        covered.push(found);
    }
    let mut lost_endpoints = Vec::new();
    for (name, addr) in endpoints.iter().filter(|(_, addr)| network.contains(*addr)) {
        let found = look(net, network, format!("etcd endpoint {name}"), *addr).await;
        lost_endpoints.extend(Some(found.clone()).filter(|found| found.is_lost));
        covered.push(found);
    }
    // One that stays in reach is enough.
    if lost_endpoints.len() == endpoints.len() {
        fatal = lost_endpoints.into_iter().next().or(fatal);
    }
    if let Some(Covered { what, addr, .. }) = fatal {
        return Err(OverlapError { network, what, addr });
    }
    for addr in peers.iter().filter(|addr| network.contains(**addr)) {
        let found = look(net, network, format!("peer {addr}"), *addr).await;
        covered.extend(Some(found).filter(|found| found.is_lost));
    }
    Ok(covered.iter().map(|covered| covered.warning(network)).collect())
}

impl Covered {
    fn warning(&self, network: Ipv4Network) -> String {
        let Self { what, is_lost, .. } = self;
        let effect = if *is_lost {
            "no longer route leads to it, so it will be out of reach"
        } else {
            "only hosts that a longer route leads to stay in reach"
        };
        format!("Network {network} covers {what}: {effect}; take a Network that no host is in")
    }
}

/// An unknown address counts as reachable: a guess must not prevent a start.
async fn look(net: &Netlink, network: Ipv4Network, what: String, addr: Ipv4Addr) -> Covered {
    let is_lost = match net.matched_route(addr).await {
        Ok(None) => true,
        Ok(Some(route)) => route.yields_to(network) || is_overlays(net, network, route).await,
        Err(_) => false,
    };
    Covered { what, addr, is_lost }
}

/// Whether `route` is that of an overlay device which is there already, because flanneld runs
/// during `--config-check`.
async fn is_overlays(net: &Netlink, network: Ipv4Network, route: RouteFields) -> bool {
    let Some(link) = route.link.filter(|_| route.dst == network) else { return false };
    let link = net.link_at(link).await.ok().flatten();
    link.is_some_and(|link| link.name.starts_with("flannel"))
}

/// The IPv4 addresses of etcd's endpoints at `urls`, with what they are called. Names that cannot be
/// looked up in time are left out.
pub(crate) async fn endpoints(urls: &[String]) -> Vec<(String, Ipv4Addr)> {
    let mut found = Vec::new();
    for url in urls {
        let Ok(uri) = url.parse::<hyper::Uri>() else { continue };
        let Some(host) = uri.host() else { continue };
        if let Ok(addr) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            found.extend(v4(addr).map(|addr| (addr.to_string(), addr)));
            continue;
        }
        let looked_up = timeout(LOOK_UP_TIMEOUT, tokio::net::lookup_host((host, 0))).await;
        let Ok(Ok(addrs)) = looked_up else { continue };
        let addrs = addrs.filter_map(|addr| v4(addr.ip()));
        found.extend(addrs.map(|addr| (format!("{host} ({addr})"), addr)));
    }
    found
}

const fn v4(addr: IpAddr) -> Option<Ipv4Addr> {
    match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(addr) => addr.to_ipv4_mapped(),
    }
}
