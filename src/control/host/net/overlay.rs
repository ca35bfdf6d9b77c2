//! The udp backend's overlay device: its desired state, and the reconciliation.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{HostNet, KernelError, Link, LinkAddr, RouteAdded};

/// The desired state of the overlay device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayLink {
    /// The kernel's number for it. It stays when the device is renamed.
    pub index: u32,
    /// Its only IPv4 address: the network address of our lease, so that what the host itself
    /// sends into the overlay has a source of ours.
    pub addr: Ipv4Addr,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// The whole overlay, routed into it.
    pub network: Ipv4Network,
}

/// Something that differs from the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Drift {
    Address,
    Mtu,
    Down,
    Route,
}

/// What a reconciliation found, and did.
#[derive(Debug)]
pub struct Reconciled {
    /// The device's name.
    pub name: String,
    /// What differed and was repaired.
    pub repaired: Vec<Drift>,
    /// What still differs, because the kernel refused.
    pub failed: Vec<(Drift, KernelError)>,
    /// Addresses of the device that are not ours. The host may send from them.
    pub others: Vec<LinkAddr>,
    /// The Network is routed to the device; if not, by another route.
    pub owns_route: bool,
}

/// Packets the kernel holds for one queue of the device until a worker reads them. A TUN device
/// starts with 500 (`TUN_READQ_SIZE` in `drivers/net/tun.c`), less than two bursts of one flow;
/// 1000 is what Ethernet links have (`DEFAULT_TX_QUEUE_LEN` in `include/net/pkt_sched.h`).
const TX_QUEUE_LEN: u32 = 1000;

/// Sets up the overlay device of this name, which was just made, and returns its number: queue,
/// address, MTU, up, route, in the order of flannel's `pkg/backend/udp/udp_network_amd64.go`.
/// Like flannel it goes on if another route to the Network exists.
///
/// # Errors
/// [`KernelError`] naming the step that failed.
pub async fn configure(
    net: &impl HostNet,
    name: &str,
    overlay: impl FnOnce(u32) -> OverlayLink,
) -> Result<(OverlayLink, Reconciled), KernelError> {
    let link = net.link(name).await?;
    net.set_txqueuelen(&link, TX_QUEUE_LEN).await?;
    // With an address the kernel would solicit routers and found for duplicates of it, on a device
    // that carries IPv4 alone. A kernel that refuses has no IPv6, and sends none.
    drop(net.set_no_ipv6_addr(&link).await);
    let overlay = overlay(link.index);
    let found = reconcile(net, &overlay, false).await?;
    let gone = || KernelError::new(format!("find link {name}"), std::io::ErrorKind::NotFound);
    let mut found = found.ok_or_else(gone)?;
    let first = found.failed.drain(..).next();
    match first {
        Some((_, error)) => Err(error),
        None => Ok((overlay, found)),
    }
}

/// Repairs what differs from `overlay`; a second call changes nothing. Asks the kernel for this
/// device alone, however large the host is. Another route to the Network is replaced only if
/// `replaces_route`. `None` if the device is gone.
///
/// # Errors
/// [`KernelError`] when the state of the device cannot be read. A step that the kernel refuses is
/// in [`Reconciled::failed`], and the others are done.
pub async fn reconcile(
    net: &impl HostNet,
    overlay: &OverlayLink,
    replaces_route: bool,
) -> Result<Option<Reconciled>, KernelError> {
    let Some(link) = net.link_at(overlay.index).await? else { return Ok(None) };
    let mut found = Reconciled {
        name: link.name.clone(),
        repaired: Vec::new(),
        failed: Vec::new(),
        others: net.addrs_of(link.index).await?,
        owns_route: false,
    };
    let own = LinkAddr { addr: overlay.addr, prefix_len: 32 };
    if !found.others.contains(&own) {
        found.note(Drift::Address, net.add_addr(&link, overlay.addr).await);
    }
    found.others.retain(|addr| *addr != own);
    if link.mtu != u32::from(overlay.mtu) {
        found.note(Drift::Mtu, net.set_mtu(&link, overlay.mtu.into()).await);
    }
    if !link.is_up {
        found.note(Drift::Down, net.set_up(&link).await);
    }
    found.owns_route = net.has_route(overlay.network, &link).await?;
    if !found.owns_route {
        match put_route(net, overlay.network, &link, replaces_route).await {
            Ok(is_put) => {
                found.owns_route = is_put;
                found.repaired.extend(is_put.then_some(Drift::Route));
            }
            Err(error) => found.failed.push((Drift::Route, error)),
        }
    }
    Ok(Some(found))
}

impl Reconciled {
    fn note(&mut self, what: Drift, result: Result<(), KernelError>) {
        match result {
            Ok(()) => self.repaired.push(what),
            Err(error) => self.failed.push((what, error)),
        }
    }
}

/// Routes `network` to `link`. Returns whether it is: another route may be there.
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

    fn run(net: &MemoryNet, replaces_route: bool) -> Option<Reconciled> {
        let found = at_once(reconcile(net, &overlay(), replaces_route)).unwrap();
        assert_eq!(net.num_dumps(), 0, "a reconciliation goes through no table of the host");
        found
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
        let found = run(&set_up(), true).unwrap();
        assert_eq!((found.name.as_str(), found.owns_route), ("flannel0", true));
        assert!(found.repaired.is_empty() && found.failed.is_empty() && found.others.is_empty());
    }

    #[test]
    fn what_somebody_changed_is_put_right() {
        let net = set_up();
        net.edit("flannel0", |device| {
            (device.up, device.mtu, device.txqueuelen) = (false, 1500, 77);
            device.addrs.clear();
        });
        net.remove_routes();
        let found = run(&net, true).unwrap();
        assert_eq!(
            found.repaired,
            [Drift::Address, Drift::Mtu, Drift::Down, Drift::Route],
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
        let found = run(&net, false).unwrap();
        assert_eq!((found.owns_route, found.repaired.len()), (false, 0));
        assert_eq!(net.all_routes()[0].link, Some(1), "left alone");
        assert_eq!(run(&net, true).unwrap().repaired, [Drift::Route]);
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
        let refused = run(&net, true).unwrap();
        assert_eq!(refused.failed.len(), 1);
        assert_eq!(refused.failed[0].0, Drift::Address);
        assert_eq!(refused.repaired, [Drift::Mtu]);
        net.refuse_addrs(false);
        assert_eq!(run(&net, true).unwrap().repaired, [Drift::Address]);
    }

    #[test]
    fn addresses_that_somebody_added_are_told_and_left_alone() {
        let net = set_up();
        let other = Ipv4Addr::new(10, 1, 15, 9);
        net.edit("flannel0", |device| device.addrs.push(other));
        let found = run(&net, true).unwrap();
        assert_eq!(found.others, [LinkAddr { addr: other, prefix_len: 32 }]);
        assert_eq!(net.state("flannel0").addrs, [ADDR, other]);
    }

    #[test]
    fn device_that_is_gone_is_no_error_to_look_at_but_one_to_set_up() {
        let net = MemoryNet::with_links(["eth0"]);
        assert!(run(&net, true).is_none());
        let error = at_once(configure(&net, "flannel0", |_| overlay())).unwrap_err();
        assert_eq!(error.to_string(), "find link flannel0");
    }
}
