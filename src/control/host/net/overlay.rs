//! The overlay device as it should be, and whatever it takes to make it so.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{HostNet, KernelError, Link, LinkAddr, RouteAdded};

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
    pub network: Ipv4Network,
}

/// Something that a look finds wrong, and puts right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Mended {
    Address,
    Mtu,
    Down,
    Route,
}

/// What a look found.
#[derive(Debug)]
pub struct Look {
    /// The device's name.
    pub name: String,
    /// What was amiss and is so no longer.
    pub mended: Vec<Mended>,
    /// What is still wrong, because the kernel refused.
    pub failed: Vec<(Mended, KernelError)>,
    /// Addresses of the device that are not ours. The host may send from them.
    pub others: Vec<LinkAddr>,
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
    let look = mend(net, &overlay, false).await?;
    let gone = || KernelError::new(format!("find link {name}"), std::io::ErrorKind::NotFound);
    let mut look = look.ok_or_else(gone)?;
    let first = look.failed.drain(..).next();
    match first {
        Some((_, error)) => Err(error),
        None => Ok((overlay, look)),
    }
}

/// Puts right what differs from `overlay`; doing so twice changes nothing. Asks the kernel for this
/// device alone, however large the host is. Somebody else's route to the Network is replaced only
/// if `replaces_route`. `None` if the device is gone.
///
/// # Errors
/// [`KernelError`] when the kernel does not tell how the device is. A step that it refuses is in
/// [`Look::failed`], and the others are done.
pub async fn mend(
    net: &impl HostNet,
    overlay: &OverlayLink,
    replaces_route: bool,
) -> Result<Option<Look>, KernelError> {
    let Some(link) = net.link_at(overlay.index).await? else { return Ok(None) };
    let mut look = Look {
        name: link.name.clone(),
        mended: Vec::new(),
        failed: Vec::new(),
        others: net.addrs_of(link.index).await?,
        owns_route: false,
    };
    let own = LinkAddr { addr: overlay.addr, prefix_len: 32 };
    if !look.others.contains(&own) {
        look.note(Mended::Address, net.add_addr(&link, overlay.addr).await);
    }
    look.others.retain(|addr| *addr != own);
    if link.mtu != u32::from(overlay.mtu) {
        look.note(Mended::Mtu, net.set_mtu(&link, overlay.mtu.into()).await);
    }
    if !link.is_up {
        look.note(Mended::Down, net.set_up(&link).await);
    }
    look.owns_route = net.has_route(overlay.network, &link).await?;
    if !look.owns_route {
        match put_route(net, overlay.network, &link, replaces_route).await {
            Ok(is_put) => {
                look.owns_route = is_put;
                look.mended.extend(is_put.then_some(Mended::Route));
            }
            Err(error) => look.failed.push((Mended::Route, error)),
        }
    }
    Ok(Some(look))
}

impl Look {
    fn note(&mut self, what: Mended, result: Result<(), KernelError>) {
        match result {
            Ok(()) => self.mended.push(what),
            Err(error) => self.failed.push((what, error)),
        }
    }
}

/// Routes `network` to `link`. Returns whether it is: somebody else's route may be there.
async fn put_route(
    net: &impl HostNet,
    network: Ipv4Network,
    link: &Link,
    replaces: bool,
) -> Result<bool, KernelError> {
    match net.add_route(network, link).await? {
        RouteAdded::Added => Ok(true),
        RouteAdded::Exists if replaces => net.replace_route(network, link).await.map(|()| true),
        RouteAdded::Exists => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::KernelRoute;
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
        let look = at_once(mend(net, &overlay(), replaces_route)).unwrap();
        assert_eq!(net.num_dumps(), 0, "a look goes through no table of the host");
        look
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
        assert_eq!(net.all_routes(), [own_route()]);
    }

    #[test]
    fn second_look_changes_nothing() {
        let look = look(&set_up(), true).unwrap();
        assert_eq!((look.name.as_str(), look.owns_route), ("flannel0", true));
        assert!(look.mended.is_empty() && look.failed.is_empty() && look.others.is_empty());
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
        assert_eq!(net.all_routes(), [own_route()]);
    }

    #[test]
    fn route_by_another_link_is_replaced_only_if_it_took_the_place_of_ours() {
        let net = set_up();
        let eth0 = at_once(net.link("eth0")).unwrap();
        at_once(net.set_up(&eth0)).unwrap();
        at_once(net.replace_route(overlay().network, &eth0)).unwrap();
        let found = look(&net, false).unwrap();
        assert_eq!((found.owns_route, found.mended.len()), (false, 0));
        assert_eq!(net.all_routes()[0].link, Some(1), "left alone");
        assert_eq!(look(&net, true).unwrap().mended, [Mended::Route]);
        assert_eq!(net.all_routes(), [own_route()]);
    }

    #[test]
    fn what_the_kernel_refuses_is_told_by_itself_and_the_rest_is_done() {
        let net = set_up();
        net.edit("flannel0", |device| {
            device.addrs.clear();
            device.mtu = 1500;
        });
        net.refuse_addrs(true);
        let refused = look(&net, true).unwrap();
        assert_eq!(refused.failed.len(), 1);
        assert_eq!(refused.failed[0].0, Mended::Address);
        assert_eq!(refused.mended, [Mended::Mtu]);
        net.refuse_addrs(false);
        assert_eq!(look(&net, true).unwrap().mended, [Mended::Address]);
    }

    #[test]
    fn addresses_that_somebody_added_are_told_and_left_alone() {
        let net = set_up();
        let other = Ipv4Addr::new(10, 1, 15, 9);
        net.edit("flannel0", |device| device.addrs.push(other));
        let look = look(&net, true).unwrap();
        assert_eq!(look.others, [LinkAddr { addr: other, prefix_len: 32 }]);
        assert_eq!(net.state("flannel0").addrs, [ADDR, other]);
    }

    #[test]
    fn device_that_is_gone_is_no_error_to_look_at_but_one_to_set_up() {
        let net = MemoryNet::with_links(["eth0"]);
        assert!(look(&net, true).is_none());
        let error = at_once(configure(&net, "flannel0", |_| overlay())).unwrap_err();
        assert_eq!(error.to_string(), "find link flannel0");
    }
}
