//! Changes on the host that the kernel reports to rtnetlink(7) multicast groups.

use std::fmt;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};

use futures_util::future::select;
use futures_util::{FutureExt, Stream, StreamExt};
use ipnetwork::Ipv4Network;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{MulticastGroup, new_connection, new_multicast_connection};

use super::netlink::local_addr;
use super::{KernelError, Netlink, RouteFields};

/// Something that changed on the host, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostChange {
    /// The link of this number came, went, or is another now.
    Link(u32),
    /// The link of this number got or lost an IPv4 address.
    Addr(u32, Ipv4Addr),
    /// A route to exactly this range came, went, or is another now. The routes that go with their
    /// link or its last address go unannounced.
    Route(Ipv4Network),
    /// The receive buffer overran and events were lost: anything may have changed.
    Missed,
}

/// Reports what changes.
pub struct HostChanges {
    changes: Pin<Box<dyn Stream<Item = HostChange> + Send + Sync>>,
}

/// Like [`connect`](super::connect), and reports changes from now on. The kernel then answers
/// what was asked for, and no more than that, if it is Linux 4.20 or later.
///
/// Changes have a socket of their own. When a socket overruns, the kernel drops answers, too, and
/// reports that only once: a request on the same socket could wait for ever.
///
/// # Errors
/// [`KernelError`] when a socket cannot be made.
pub fn watch()
-> Result<(impl Future<Output = ()> + Send + 'static, Netlink, HostChanges), KernelError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    let (events, _, messages) = new_multicast_connection(&groups)
        .map_err(|source| KernelError::new("watch links, addresses and routes", source))?;
    let (mut asked, handle, _) =
        new_connection().map_err(|source| KernelError::new("open a netlink socket", source))?;
    if let Err(error) = asked.socket_mut().socket_mut().set_netlink_get_strict_chk(true) {
        tracing::debug!(%error, "kernel lists all routes and addresses where few are asked for");
    }
    let changes = messages.filter_map(|(message, _)| std::future::ready(change(&message.payload)));
    let connections = async {
        select(pin!(events), pin!(asked)).await;
    };
    Ok((connections, Netlink { handle }, HostChanges { changes: Box::pin(changes) }))
}

impl HostChanges {
    /// Waits for the next change; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn next(&mut self) -> Option<HostChange> {
        self.changes.next().await
    }

    /// Forgets the changes that have been events by now.
    pub fn drain(&mut self) {
        while let Some(Some(_)) = self.changes.next().now_or_never() {}
    }
}

impl fmt::Debug for HostChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostChanges").finish_non_exhaustive()
    }
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<HostChange> {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewAddress, NewLink, NewRoute};
    if matches!(payload, NetlinkPayload::Overrun(_)) {
        return Some(HostChange::Missed);
    }
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    if let NewLink(link) | DelLink(link) = message {
        Some(HostChange::Link(link.header.index))
    } else if let NewAddress(addr) | DelAddress(addr) = message {
        local_addr(addr).map(|(link, own)| HostChange::Addr(link, own.addr))
    } else if let NewRoute(route) | DelRoute(route) = message {
        RouteFields::of(route).map(|route| HostChange::Route(route.dst))
    } else {
        None
    }
}
