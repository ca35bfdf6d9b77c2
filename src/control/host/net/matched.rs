//! Which of the host's routes an address takes now.

use std::net::Ipv4Addr;
use std::pin::pin;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::route::RouteFlags;

use super::netlink::failed;
use super::one_route::request_for;
use super::route_message::RT_TABLE_DEFAULT;
use super::{KernelError, Netlink, RouteFields};

impl RouteFields {
    /// Whether a route to `network` in the main table, of metric 0, would come before this one.
    ///
    /// Of the tables that the usual rules ask, `local` and those of the operator's own rules come
    /// before `main`, and `default` after it: ip-rule(8).
    pub fn yields_to(&self, network: Ipv4Network) -> bool {
        let (here, ours) = (self.dst.prefix(), network.prefix());
        if self.is_in_main_table() {
            here < ours || (here == ours && self.metric > 0)
        } else {
            self.table == RT_TABLE_DEFAULT
        }
    }
}

impl Netlink {
    /// The route that a packet from this host to `addr` takes; `None` without one.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn matched_route(&self, addr: Ipv4Addr) -> Result<Option<RouteFields>, KernelError> {
        let mut to = request_for(addr);
        // Without it the answer has the address in the place of the route's range. Linux 4.13.
        // Nor does it name the table, but say `main`, unless it is asked to. Linux 4.4.
        to.header.flags |= RouteFlags::FibMatch | RouteFlags::LookupTable;
        let mut found = pin!(self.handle().route().get(to).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(RouteFields::of)),
            Err(error) => {
                let error = failed(format!("find a route to {addr}"), error);
                let is_none = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES];
                let code = error.source.raw_os_error();
                if is_none.into_iter().any(|none| code == Some(none)) {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_longer_than_the_network_yields_to_it() {
        let network = "192.168.0.0/16".parse().unwrap();
        for (dst, table, metric, yields) in [
            ("0.0.0.0/0", 254, 0, true),
            ("192.0.0.0/8", 254, 0, true),
            ("192.168.0.0/16", 254, 100, true),
            ("192.168.0.0/16", 254, 0, false),
            ("192.168.61.0/24", 254, 100, false),
            ("192.168.99.5/32", 254, 0, false),
            ("192.168.61.1/32", 255, 0, false),
            ("0.0.0.0/0", 100, 0, false),
            ("0.0.0.0/0", 253, 0, true),
        ] {
            let dst = dst.parse().unwrap();
            let (link, gateway, has_gateway) = (Some(2), None, false);
            let route = RouteFields { dst, table, link, gateway, has_gateway, metric };
            assert_eq!(route.yields_to(network), yields, "{route:?}");
        }
    }
}
