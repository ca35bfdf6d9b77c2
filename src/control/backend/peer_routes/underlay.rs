//! The external interface of vxlan and host-gw, and which peers are reachable through it.

use std::net::Ipv4Addr;

use tokio::sync::watch;

use crate::control::conditions::Condition;
use crate::control::host::iface::{ExternalInterface, FollowedIface, IfaceChoice};
use crate::control::host::net::{KernelError, Link, Netlink};
use crate::control::subnet::lease::LeaseAttrs;
use crate::routes::unusable;

/// The external interface below a backend, and what our lease says of us: both change when the
/// interface gets another address.
#[derive(Debug)]
pub struct Underlay {
    followed: FollowedIface,
    attrs: watch::Sender<LeaseAttrs>,
    /// Whether peers send to the interface's own address, and to no other.
    is_direct: bool,
}

impl Underlay {
    /// The interface that was chosen at the start.
    pub fn new(iface: ExternalInterface, choice: IfaceChoice) -> Self {
        let attrs = watch::Sender::new(LeaseAttrs::udp(iface.public_ip));
        Self { followed: FollowedIface::new(iface, choice), attrs, is_direct: false }
    }

    /// Takes what our lease says of us.
    pub fn says(&self, attrs: LeaseAttrs) {
        self.attrs.send_replace(attrs);
    }

    /// The same where the public IP must be the interface's own address.
    pub fn direct(self) -> Self {
        Self { is_direct: true, ..self }
    }

    /// The interface that is in use.
    pub const fn iface(&self) -> &ExternalInterface {
        self.followed.iface()
    }

    /// What our lease is to say of us, now and at every change.
    pub fn attrs(&self) -> watch::Receiver<LeaseAttrs> {
        self.attrs.subscribe()
    }

    /// The link that has our address now. If it is gone for good, the operator's choice is
    /// evaluated again, without `overlay`, our own device.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn link(
        &mut self,
        net: &Netlink,
        overlay: Option<u32>,
    ) -> Result<Option<Link>, KernelError> {
        if let Some(link) = self.followed.link(net).await? {
            return Ok(Some(link));
        }
        let successor = self.followed.successor(net, overlay).await?;
        let is_usable =
            |iface: &ExternalInterface| !self.is_direct || iface.addr == iface.public_ip;
        let Some(iface) = successor.filter(is_usable) else { return Ok(None) };
        let old = self.followed.iface();
        tracing::warn!(
            "address {} of interface {} is gone: using {} of {} from now on, peers send to {}",
            old.addr,
            old.name,
            iface.addr,
            iface.name,
            iface.public_ip
        );
        let public_ip = iface.public_ip;
        self.followed.follow(iface);
        self.attrs.send_if_modified(|said| said.v4.public_ip.replace(public_ip) != Some(public_ip));
        self.followed.link(net).await
    }
}

/// The condition of the external interface.
pub fn underlay_condition(iface: &ExternalInterface, link: Option<&Link>) -> Condition {
    let ExternalInterface { name, addr, public_ip, .. } = iface;
    match link {
        None => Condition::Failed(format!(
            "address {addr} of interface {name} is gone, and peers send to {public_ip} still: give \
             it back, or give it another if neither --iface nor --public-ip names it"
        )),
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
