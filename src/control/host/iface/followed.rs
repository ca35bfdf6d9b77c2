//! [`FollowedIface`]: the external interface, followed to another address when it loses its own.

use std::time::Duration;

use tokio::time::Instant;

use super::{ExternalInterface, IfaceChoice};
use crate::control::host::net::{HostChange, HostNet, KernelError, Link, Netlink};

/// How long an address may be missing before another is used: a network daemon that restarts
/// removes all addresses and adds them again.
const GRACE: Duration = Duration::from_secs(2);

/// The external interface, checked periodically.
#[derive(Debug, Clone)]
pub struct FollowedIface {
    iface: ExternalInterface,
    /// The operator's choice.
    choice: IfaceChoice,
    /// The kernel's number for it, once it is known.
    index: Option<u32>,
    /// Since when no link has its address.
    lost_since: Option<Instant>,
}

impl FollowedIface {
    /// That of a node which started with the interface `iface`.
    pub const fn new(iface: ExternalInterface, choice: IfaceChoice) -> Self {
        Self { iface, choice, index: None, lost_since: None }
    }

    /// The link that has our address now: another one, perhaps, when it was made part of a
    /// bridge.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn link(&mut self, net: &impl HostNet) -> Result<Option<Link>, KernelError> {
        let addr = self.iface.addr;
        let is_known = match self.index {
            Some(index) => net.addrs_of(index).await?.iter().any(|own| own.addr == addr),
            None => false,
        };
        let owner = if is_known { self.index } else { net.owner_of(addr).await? };
        let link = match owner {
            Some(index) => net.link_at(index).await?,
            None => None,
        };
        match &link {
            Some(link) => (self.index, self.lost_since) = (Some(link.index), None),
            None => drop(self.lost_since.get_or_insert_with(Instant::now)),
        }
        Ok(link)
    }

    /// The interface to use from now on, if our address is gone for good and the operator's choice
    /// leads to another one.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn successor(
        &self,
        net: &Netlink,
        overlay: Option<u32>,
    ) -> Result<Option<ExternalInterface>, KernelError> {
        match self.lost_since {
            Some(since) if since.elapsed() >= GRACE => self.choice.again(net, overlay).await,
            Some(_) | None => Ok(None),
        }
    }

    /// Takes over the interface that is used from now on.
    pub fn follow(&mut self, iface: ExternalInterface) {
        (self.iface, self.index, self.lost_since) = (iface, None, None);
    }

    /// The interface that is in use.
    pub const fn iface(&self) -> &ExternalInterface {
        &self.iface
    }

    /// How long until it is decided whether our address is gone for good.
    pub fn grace_left(&self) -> Option<Duration> {
        let left = GRACE.saturating_sub(self.lost_since?.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// Whether a change may be one of the interface, or of where its address is.
    pub fn is_concerned_by(&self, change: HostChange) -> bool {
        match change {
            HostChange::Link(index) => Some(index) == self.index,
            HostChange::Addr(index, addr) => {
                addr == self.iface.addr || Some(index) == self.index || self.lost_since.is_some()
            }
            HostChange::Route(dst) => dst.prefix() == 0 && self.lost_since.is_some(),
            HostChange::Missed => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::host::net::memory::MemoryNet;

    #[tokio::test(start_paused = true)]
    async fn address_is_asked_of_its_own_link_and_its_loss_is_for_good_after_a_while() {
        let net = MemoryNet::with_links(["lo", "eth0", "br0"]);
        let addr = "10.0.0.7".parse().unwrap();
        let iface = ExternalInterface { name: "eth0".to_owned(), mtu: 1500, addr, public_ip: addr };
        net.edit("eth0", |link| link.addrs.push(addr));
        let mut followed = FollowedIface::new(iface, IfaceChoice::default());
        for _ in 0..3 {
            assert_eq!(followed.link(&net).await.unwrap().unwrap().index, 2);
        }
        assert_eq!(net.num_dumps(), 1, "the first look finds the link");
        assert!(followed.is_concerned_by(HostChange::Link(2)));
        assert!(!followed.is_concerned_by(HostChange::Link(3)));
        assert!(!followed.is_concerned_by(HostChange::Addr(3, [192, 0, 2, 1].into())));
        assert!(!followed.is_concerned_by(HostChange::Route("0.0.0.0/0".parse().unwrap())));

        net.edit("eth0", |link| link.addrs.clear());
        assert!(followed.link(&net).await.unwrap().is_none());
        assert_eq!(followed.grace_left(), Some(GRACE));
        assert!(followed.is_concerned_by(HostChange::Addr(3, [192, 0, 2, 1].into())));
        tokio::time::advance(GRACE / 2).await;
        net.edit("br0", |link| link.addrs.push(addr));
        assert_eq!(followed.link(&net).await.unwrap().unwrap().index, 3, "part of a bridge now");
        assert_eq!(followed.grace_left(), None);
        net.edit("br0", |link| link.addrs.clear());
        assert!(followed.link(&net).await.unwrap().is_none());
        tokio::time::advance(GRACE).await;
        assert_eq!(followed.grace_left(), None, "over");
        assert!(followed.lost_since.is_some());
    }
}
