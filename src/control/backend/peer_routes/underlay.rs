//! The external interface below the kernel's backends, and who can be reached through it.

use std::net::Ipv4Addr;

use crate::control::conditions::Condition;
use crate::control::iface::ExternalInterface;
use crate::routes::kernel::{HostNet, KernelError, Link, Netlink};
use crate::routes::unusable;

/// The link that has our address now.
pub async fn underlay_link(
    net: &Netlink,
    iface: &ExternalInterface,
) -> Result<Option<Link>, KernelError> {
    match net.owner_of(iface.addr).await? {
        Some(index) => net.link_at(index).await,
        None => Ok(None),
    }
}

/// How the external interface is.
pub fn underlay_condition(iface: &ExternalInterface, link: Option<&Link>) -> Condition {
    let ExternalInterface { name, addr, .. } = iface;
    match link {
        None => Condition::Failed(format!("address {addr} of interface {name} is gone")),
        Some(Link { is_up: false, name, .. }) => {
            Condition::Failed(format!("interface {name} is down: bring it up to reach the peers"))
        }
        Some(Link { has_carrier: false, name, .. }) => {
            Condition::Failed(format!("interface {name} has no carrier: is its cable plugged in?"))
        }
        Some(_) => Condition::Ok,
    }
}

/// Whether packets can be sent to a peer at `host`.
///
/// # Errors
/// One line that says why not.
pub fn check_host(iface: &ExternalInterface, host: Ipv4Addr) -> Result<(), String> {
    if let Some(what) = unusable(host) {
        return Err(format!("its PublicIP {host} is {what}"));
    }
    if host == iface.addr || host == iface.public_ip {
        return Err(format!("its PublicIP {host} is our own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_at_an_address_that_reaches_no_other_host_is_refused() {
        let (addr, public_ip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 1));
        let iface = ExternalInterface { name: "eth0".into(), mtu: 1500, addr, public_ip };
        for (host, what) in [
            ("0.1.2.3", "no address of a host"),
            ("127.0.0.9", "a loopback address"),
            ("255.255.255.255", "the broadcast address"),
            ("10.0.0.1", "our own"),
            ("192.0.2.1", "our own"),
        ] {
            let refused = check_host(&iface, host.parse().unwrap()).unwrap_err();
            assert_eq!(refused, format!("its PublicIP {host} is {what}"));
        }
        assert_eq!(check_host(&iface, Ipv4Addr::new(10, 0, 0, 2)), Ok(()));
    }
}
