//! Routes with our protocol number, [`ROUTE_PROTOCOL`].

use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteType};

use super::{KernelError, Netlink, RouteFields, failed};

/// The protocol number of our routes by the external interface, in the range that
/// `include/uapi/linux/rtnetlink.h` leaves to user space; no program listed in
/// `/etc/iproute2/rt_protos` has it. It distinguishes them from all others. Routes by a device of
/// our own need no mark, and have the protocol that stock gives them, `boot`.
pub const ROUTE_PROTOCOL: u8 = 82;

/// The filter of a dump for all IPv4 routes of the main table.
pub(crate) fn any_main_route() -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new().build();
    message.header.protocol = RouteProtocol::Unspec;
    message.header.kind = RouteType::Unspec;
    message
}

impl Netlink {
    /// Deletes every route of the main table with our protocol number, and returns what was
    /// deleted, in the words of `ip route`.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel refuses.
    pub async fn delete_marked_routes(&self) -> Result<Vec<String>, KernelError> {
        let mut filter = any_main_route();
        filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        // The socket may not filter: what is not ours is skipped here.
        let is_ours = |route: &RouteMessage| {
            route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
                && RouteFields::of(route).is_some_and(|it| it.is_in_main_table())
        };
        let mut marked = Vec::new();
        let mut listed = pin!(self.handle().route().get(filter).execute());
        loop {
            match listed.try_next().await.map_err(|error| failed("list routes".to_owned(), error)) {
                Ok(Some(route)) if is_ours(&route) => marked.push(route),
                Ok(Some(_)) => {}
                // The kernel makes the main table with its first route.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => break,
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        let mut deleted = Vec::new();
        for route in marked {
            let Some(RouteFields { dst, .. }) = RouteFields::of(&route) else { continue };
            let result = self.handle().route().del(route).execute().await;
            match result.map_err(|error| failed(format!("delete route {dst}"), error)) {
                // It went with its link, or another program deleted it.
                Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => {}
                result => result?,
            }
            deleted.push(format!("route {dst}"));
        }
        Ok(deleted)
    }
}
