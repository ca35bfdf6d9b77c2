//! The overlay device as it should be, and whatever it takes to make it so.

use std::net::Ipv4Addr;

use super::{HostNet, KernelError, KernelRoute, Link, RouteAdded};
use crate::routes::Subnet;

/// The overlay device as the kernel is to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayLink {
    /// The kernel's number for it. It stays when somebody gives the device another name.
    pub index: u32,
    /// Its only IPv4 address: the network address of our lease, so that what the host itself
    /// sends into the overlay has a source of ours.
    pub addr: Ipv4Addr,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// The whole overlay, routed into it.
    pub network: Subnet,
}

/// Something that a look found amiss, and put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Mended {
    Address,
    Mtu,
    Down,
    Route,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The device's name.
    pub name: String,
    /// What was amiss and is so no longer.
    pub mended: Vec<Mended>,
    /// The Network is routed to the device; if not, by somebody else's route.
    pub owns_route: bool,
}

/// Packets the kernel holds for one queue of the device until a worker reads them. A TUN device
/// starts with 500 (`TUN_READQ_SIZE` in `drivers/net/tun.c`), less than two bursts of one flow;
/// 1000 is what Ethernet links have (`DEFAULT_TX_QUEUE_LEN` in `include/net/pkt_sched.h`).
const TX_QUEUE_LEN: u32 = 1000;

/// Sets up the overlay device of this name, which was just made, and returns its number: queue,
/// address, MTU, up, route, in the order of flannel's `pkg/backend/udp/udp_network_amd64.go`.
/// Like flannel it goes on beside somebody else's route to the Network.
///
/// # Errors
/// [`KernelError`] naming the step that failed.
pub async fn configure(
    net: &impl HostNet,
    name: &str,
    overlay: impl FnOnce(u32) -> OverlayLink,
) -> Result<(OverlayLink, Look), KernelError> {
    let link = net.link(name).await?;
    net.set_txqueuelen(&link, TX_QUEUE_LEN).await?;
    // With an address the kernel would solicit routers and look for duplicates of it, on a device
    // that carries IPv4 alone. A kernel that refuses has no IPv6, and sends none.
    drop(net.set_no_ipv6_addr(&link).await);
    let overlay = overlay(link.index);
    let look = mend(net, &overlay, &[], false).await?;
    let gone = || KernelError::new(format!("find link {name}"), std::io::ErrorKind::NotFound);
    Ok((overlay, look.ok_or_else(gone)?))
}

/// Puts right what differs from `overlay`; doing so twice changes nothing. `addrs` are all IPv4
/// addresses of the host. Somebody else's route to the Network is replaced only if
/// `replaces_route`. `None` if the device is gone.
///
/// # Errors
/// [`KernelError`] naming the step that failed; the steps before it are done.
pub async fn mend(
    net: &impl HostNet,
    overlay: &OverlayLink,
    addrs: &[(u32, Ipv4Addr)],
    replaces_route: bool,
) -> Result<Option<Look>, KernelError> {
    let Some(link) = net.link_at(overlay.index).await? else { return Ok(None) };
    let mut mended = Vec::new();
    if !addrs.contains(&(link.index, overlay.addr)) {
        net.add_addr(&link, overlay.addr).await?;
        mended.push(Mended::Address);
    }
    if link.mtu != u32::from(overlay.mtu) {
        net.set_mtu(&link, overlay.mtu.into()).await?;
        mended.push(Mended::Mtu);
    }
    if !link.is_up {
        net.set_up(&link).await?;
        mended.push(Mended::Down);
    }
    let network = overlay.network;
    let owns_route = match net.add_route(network, &link).await? {
        RouteAdded::Added => {
            mended.push(Mended::Route);
            true
        }
        RouteAdded::Exists if leaves_by(&net.routes().await?, network, &link) => true,
        RouteAdded::Exists if replaces_route => {
            net.replace_route(network, &link).await?;
            mended.push(Mended::Route);
            true
        }
        RouteAdded::Exists => false,
    };
    Ok(Some(Look { name: link.name, mended, owns_route }))
}

/// Whether the route of metric 0 to `network` is one by `link`.
fn leaves_by(routes: &[KernelRoute], network: Subnet, link: &Link) -> bool {
    let route = routes.iter().find(|route| route.dst == network && route.metric == 0);
    route.is_some_and(|route| route.link == Some(link.index))
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryNet, at_once};
    use super::*;

    const ADDR: Ipv4Addr = Ipv4Addr::new(10, 1, 15, 0);

    fn overlay() -> OverlayLink {
        OverlayLink { index: 2, addr: ADDR, mtu: 1472, network: "10.1.0.0/16".parse().unwrap() }
    }

    fn set_up() -> MemoryNet {
        let net = MemoryNet::with_links(["eth0", "flannel0"]);
        at_once(configure(&net, "flannel0", |index| OverlayLink { index, ..overlay() })).unwrap();
        net
    }

    fn look(net: &MemoryNet, replaces_route: bool) -> Option<Look> {
        let addrs = at_once(net.addrs()).unwrap();
        at_once(mend(net, &overlay(), &addrs, replaces_route)).unwrap()
    }

    fn own_route() -> KernelRoute {
        KernelRoute { dst: overlay().network, link: Some(2), metric: 0 }
    }

    #[test]
    fn overlay_device_gets_address_sizes_and_the_network_route() {
        let net = set_up();
        let device = net.state("flannel0");
        assert_eq!(device.addrs, [ADDR]);
        assert_eq!((device.mtu, device.txqueuelen, device.up), (1472, 1000, true));
        assert!(device.has_no_ipv6_addr);
        assert_eq!(at_once(net.routes()).unwrap(), [own_route()]);
    }

    #[test]
    fn second_look_changes_nothing() {
        let look = look(&set_up(), true).unwrap();
        assert_eq!(look, Look { name: "flannel0".into(), mended: vec![], owns_route: true });
    }

    #[test]
    fn what_somebody_changed_is_put_right() {
        let net = set_up();
        net.edit("flannel0", |device| {
            (device.up, device.mtu, device.txqueuelen) = (false, 1500, 77);
            device.addrs.clear();
        });
        net.remove_routes();
        let look = look(&net, true).unwrap();
        assert_eq!(
            look.mended,
            [Mended::Address, Mended::Mtu, Mended::Down, Mended::Route],
            "all of it"
        );
        let device = net.state("flannel0");
        assert_eq!((device.addrs.as_slice(), device.mtu, device.up), (&[ADDR][..], 1472, true));
        assert_eq!(device.txqueuelen, 77, "the operator's choice");
        assert_eq!(at_once(net.routes()).unwrap(), [own_route()]);
    }

    #[test]
    fn route_by_another_link_is_replaced_only_if_it_took_the_place_of_ours() {
        let net = set_up();
        let eth0 = at_once(net.link("eth0")).unwrap();
        at_once(net.set_up(&eth0)).unwrap();
        at_once(net.replace_route(overlay().network, &eth0)).unwrap();
        let found = look(&net, false).unwrap();
        assert_eq!((found.owns_route, found.mended.len()), (false, 0));
        assert_eq!(at_once(net.routes()).unwrap()[0].link, Some(1), "left alone");
        assert_eq!(look(&net, true).unwrap().mended, [Mended::Route]);
        assert_eq!(at_once(net.routes()).unwrap(), [own_route()]);
    }

    #[test]
    fn device_that_is_gone_is_no_error_to_look_at_but_one_to_set_up() {
        let net = MemoryNet::with_links(["eth0"]);
        assert_eq!(look(&net, true), None);
        let error = at_once(configure(&net, "flannel0", |_| overlay())).unwrap_err();
        assert_eq!(error.to_string(), "find link flannel0");
    }
}
