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
