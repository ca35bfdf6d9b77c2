//! Which external interface: the link that carries the underlay, its address, and the public IP.
//!
//! [`select`] does no I/O; what it chooses from is read by [`host::read`]. [`FollowedIface`] keeps up
//! with the interface while the daemon runs.

mod followed;
mod host;
mod select;
mod spec;

use std::net::Ipv4Addr;

pub use self::followed::FollowedIface;
pub use self::host::read;
use self::select::{Choice, choose};
pub use self::select::{IfaceError, select};
pub use self::spec::{IfaceRegex, IfaceSpec, RegexError, SpecError};
use crate::control::host::net::{KernelError, KernelRoute, Netlink};

/// The host's links and routes, as [`select`] sees them.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// All links, in kernel order.
    pub links: Vec<HostLink>,
    /// The main table's default routes, in kernel order.
    pub routes: Vec<KernelRoute>,
    /// The ways to the addresses that were asked about, as far as there are some.
    pub reached: Vec<Reached>,
}

/// How the kernel would send to an address.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// The address.
    pub addr: Ipv4Addr,
    /// Number of the link that it is reached by.
    pub link: u32,
    /// The address of ours that is sent from.
    pub src: Ipv4Addr,
}

/// A link with its IPv4 addresses.
#[derive(Debug, Clone)]
pub struct HostLink {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its IPv4 addresses, in kernel order.
    pub addrs: Vec<HostAddr>,
}

/// An address of a link, with the flags that make it a better or worse choice.
#[derive(Debug, Clone, Copy)]
pub struct HostAddr {
    /// The address.
    pub addr: Ipv4Addr,
    /// Length of the prefix that its link reaches by it.
    pub prefix_len: u8,
    /// It was set by hand; no DHCP lease ends it.
    pub permanent: bool,
    /// It is a secondary address of its subnet (IPv4) or a temporary one (IPv6).
    pub temporary: bool,
    /// It is being phased out, so nothing new should use it.
    pub deprecated: bool,
}

/// The link that carries the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes, not 0.
    pub mtu: u32,
    /// The address of it that we bind to.
    pub addr: Ipv4Addr,
    /// What peers send to: `addr`, or what a NAT turns into it.
    pub public_ip: Ipv4Addr,
}

/// The operator's choice of the external interface.
#[derive(Debug, Clone, Default)]
pub struct IfaceChoice {
    /// Ways to find it, in order.
    pub specs: Vec<IfaceSpec>,
    /// What peers are to send to.
    pub public_ip: Option<Ipv4Addr>,
}

impl IfaceChoice {
    /// The interface that the choice leads to now, without `overlay`, which is our own device.
    /// `None` while nothing fits. Logs nothing.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub(super) async fn again(
        &self,
        net: &Netlink,
        overlay: Option<u32>,
    ) -> Result<Option<ExternalInterface>, KernelError> {
        let mut host = read(net, &self.specs).await?;
        host.links.retain(|link| Some(link.index) != overlay);
        let Ok(Choice { link, addr, .. }) = choose(&host, &self.specs, self.public_ip, &|_| ())
        else {
            return Ok(None);
        };
        let HostLink { ref name, mtu, .. } = *link;
        let public_ip = self.public_ip.unwrap_or(addr);
        Ok((mtu > 0).then(|| ExternalInterface { name: name.clone(), mtu, addr, public_ip }))
    }
}

#[cfg(test)]
mod tests;
