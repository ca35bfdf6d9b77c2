//! Which external interface: the link that carries the underlay, its address, and the public IP.
//!
//! [`select`] is pure and follows `LookupExtIface` in flannel's `pkg/ipmatch/match.go`; what it
//! chooses from is read by [`host::read`].

mod host;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use tracing::info;

pub use self::host::read;
use crate::routes::kernel::KernelRoute;

/// An external interface as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfaceSpec {
    /// The interface that has this address; the address is then what is bound to.
    Addr(Ipv4Addr),
    /// The interface of this name, with the best of its addresses.
    Name(String),
}

/// A text that is no [`IfaceSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing at all.
    #[error("the name or IPv4 address of an interface is needed")]
    Empty,
    /// The underlay is IPv4.
    #[error("the underlay is IPv4: {0} cannot be its address")]
    Ipv6(Ipv6Addr),
}

/// The host's links and routes, as [`select`] sees them.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// All links, in kernel order.
    pub links: Vec<HostLink>,
    /// The main table's routes, in kernel order.
    pub routes: Vec<KernelRoute>,
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
    /// It was set by hand; nobody takes it away when a lease of its own ends.
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

/// Why no interface was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IfaceError {
    /// No `--iface` fits.
    #[error("no interface fits --iface {tried}; this host has {present}")]
    NoneFits {
        /// The specs, in order.
        tried: String,
        /// Links and addresses there are.
        present: String,
    },
    /// Nobody has the address of `--public-ip`.
    #[error(
        "no interface has the --public-ip {addr}: add --iface if it is the address of a NAT; \
         this host has {present}"
    )]
    PublicIpElsewhere {
        /// The address.
        addr: Ipv4Addr,
        /// Links and addresses there are.
        present: String,
    },
    /// There is no default route to follow.
    #[error("no default route: choose the interface with --iface; this host has {present}")]
    NoDefaultRoute {
        /// Links and addresses there are.
        present: String,
    },
    /// The default route leaves by several links.
    #[error(
        "the default route has no single interface: choose one with --iface; this host has {present}"
    )]
    Multipath {
        /// Links and addresses there are.
        present: String,
    },
    /// The link has no address to send from.
    #[error("interface {name} has no usable IPv4 address")]
    NoAddress {
        /// Its name.
        name: String,
    },
    /// The link cannot carry anything.
    #[error("interface {name} has MTU 0")]
    NoMtu {
        /// Its name.
        name: String,
    },
}

/// Chooses the external interface: the first of `specs` that fits; without any, the interface
/// that owns `public_ip`; without that, the default route's.
///
/// # Errors
/// [`IfaceError`], which says what the host has to choose from.
pub fn select(
    host: &HostView,
    specs: &[IfaceSpec],
    public_ip: Option<Ipv4Addr>,
) -> Result<ExternalInterface, IfaceError> {
    let (link, addr) = match (specs, public_ip) {
        ([], Some(addr)) => owner(host, addr)
            .ok_or_else(|| IfaceError::PublicIpElsewhere { addr, present: present(host) })?,
        ([], None) => by_default_route(host)?,
        (specs, _) => first_fitting(host, specs)?,
    };
    if link.mtu == 0 {
        return Err(IfaceError::NoMtu { name: link.name.clone() });
    }
    info!("Using interface with name {} and address {addr}", link.name);
    match public_ip {
        Some(public_ip) => info!("Using {public_ip} as external address"),
        None => info!("Defaulting external address to interface address ({addr})"),
    }
    let public_ip = public_ip.unwrap_or(addr);
    Ok(ExternalInterface { name: link.name.clone(), mtu: link.mtu, addr, public_ip })
}

type Choice<'a> = (&'a HostLink, Ipv4Addr);

fn first_fitting<'a>(host: &'a HostView, specs: &[IfaceSpec]) -> Result<Choice<'a>, IfaceError> {
    for spec in specs {
        let choice = match spec {
            IfaceSpec::Addr(addr) => owner(host, *addr).ok_or("no interface has this address"),
            IfaceSpec::Name(name) => match host.links.iter().find(|link| link.name == *name) {
                None => Err("there is no such interface"),
                Some(link) => {
                    best_addr(link).map(|addr| (link, addr)).ok_or("it has no usable IPv4 address")
                }
            },
        };
        match choice {
            Ok(choice) => return Ok(choice),
            Err(reason) => info!("Could not use interface {spec}: {reason}"),
        }
    }
    let tried: Vec<String> = specs.iter().map(ToString::to_string).collect();
    Err(IfaceError::NoneFits { tried: tried.join(", "), present: present(host) })
}

fn owner(host: &HostView, addr: Ipv4Addr) -> Option<Choice<'_>> {
    let owns = |link: &&HostLink| link.addrs.iter().any(|own| own.addr == addr);
    host.links.iter().find(owns).map(|link| (link, addr))
}

fn by_default_route(host: &HostView) -> Result<Choice<'_>, IfaceError> {
    info!("Determining IP address of default interface");
    let defaults = host.routes.iter().filter(|route| route.dst.prefix_len() == 0);
    let route = defaults
        .min_by_key(|route| route.metric)
        .ok_or_else(|| IfaceError::NoDefaultRoute { present: present(host) })?;
    let link = host
        .links
        .iter()
        .find(|link| Some(link.index) == route.link)
        .ok_or_else(|| IfaceError::Multipath { present: present(host) })?;
    let addr = best_addr(link).ok_or_else(|| IfaceError::NoAddress { name: link.name.clone() })?;
    Ok((link, addr))
}

/// The address to send from: global before link-local, permanent before dynamic, primary before
/// temporary, else in kernel order. `pkg/ip/iface.go`.
fn best_addr(link: &HostLink) -> Option<Ipv4Addr> {
    link.addrs
        .iter()
        .filter(|own| is_unicast(own.addr) && !own.deprecated)
        .min_by_key(|own| (own.addr.is_link_local(), !own.permanent, own.temporary))
        .map(|own| own.addr)
}

/// Global or link-local unicast in the sense of Go's `net.IP`.
const fn is_unicast(addr: Ipv4Addr) -> bool {
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || addr.is_broadcast())
}

/// What there is to choose from: `eth0 (10.0.0.7), wlan0 (no address)`.
fn present(host: &HostView) -> String {
    let links = host.links.iter().map(|link| {
        let addrs: Vec<String> = link.addrs.iter().map(|own| own.addr.to_string()).collect();
        match addrs.as_slice() {
            [] => format!("{} (no address)", link.name),
            addrs => format!("{} ({})", link.name, addrs.join(" ")),
        }
    });
    let links: Vec<String> = links.collect();
    if links.is_empty() { "no interface".to_owned() } else { links.join(", ") }
}

impl FromStr for IfaceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Empty);
        }
        if let Ok(addr) = text.parse() {
            return Err(SpecError::Ipv6(addr));
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Addr))
    }
}

impl fmt::Display for IfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
