//! Which external interface: the link that carries the underlay, its address, and the public IP.
//!
//! [`select`] is pure and follows `LookupExtIface` in flannel's `pkg/ipmatch/match.go`; what it
//! chooses from is read by [`host::read`].

mod followed;
mod host;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::Ipv4Network;
use regex::Regex;
use tracing::info;

pub use self::followed::FollowedIface;
pub use self::host::read;
use crate::control::host::net::{KernelError, KernelRoute, Netlink};
use crate::routes::{Prefix, unusable};

/// An external interface as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfaceSpec {
    /// The interface that has this address; the address is then what is bound to.
    Addr(Ipv4Addr),
    /// The interface of this name, with the best of its addresses.
    Name(String),
    /// The first interface that has an address which matches; if there is none, the first whose
    /// name does.
    Regex(IfaceRegex),
    /// The interface by which this address is reached, with the address that is sent from then.
    CanReach(Ipv4Addr),
}

/// A regular expression for addresses and names of interfaces. Its syntax is RE2's, as in Go, and
/// it matches anywhere in the text.
#[derive(Debug, Clone)]
pub struct IfaceRegex(Regex);

/// A text that is no [`IfaceRegex`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no regular expression")]
pub struct RegexError(String);

/// A text that is no [`IfaceSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing at all.
    #[error("the name or IPv4 address of an interface is needed")]
    Empty,
    /// The underlay is IPv4.
    #[error("the underlay is IPv4: {0} cannot be its address")]
    Ipv6(Ipv6Addr),
    /// Nothing can be sent from it to another host.
    #[error("{addr} is {what}: the address of an interface that peers can send to is needed")]
    Unusable {
        /// The address.
        addr: Ipv4Addr,
        /// What it is instead.
        what: &'static str,
    },
}

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
    /// No way to choose one leads to any.
    #[error("no interface fits {tried}; this host has {present}")]
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
    /// What is sent to it goes to all hosts of a link.
    #[error(
        "flag --public-ip: {addr} is the broadcast address of {name}: give an address that peers \
         can send to"
    )]
    PublicIpBroadcast {
        /// The address.
        addr: Ipv4Addr,
        /// The link.
        name: String,
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

/// What the operator says of the external interface.
#[derive(Debug, Clone, Default)]
pub struct IfaceChoice {
    /// Ways to find it, in order.
    pub specs: Vec<IfaceSpec>,
    /// What peers are to send to.
    pub public_ip: Option<Ipv4Addr>,
}

impl IfaceChoice {
    /// The choice as it falls by now, `overlay` left out: that is our own device. `None` while
    /// nothing fits. Says nothing.
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
    if let Some((name, addr)) = public_ip.and_then(|addr| Some((broadcasts_to(host, addr)?, addr)))
    {
        return Err(IfaceError::PublicIpBroadcast { addr, name: name.to_owned() });
    }
    let say = |line: &str| info!("{line}");
    let Choice { link, addr, why } = choose(host, specs, public_ip, &say)?;
    let HostLink { name, mtu, .. } = link;
    if *mtu == 0 {
        return Err(IfaceError::NoMtu { name: name.clone() });
    }
    info!("Using interface with name {name} and address {addr}");
    match public_ip {
        Some(public_ip) => info!("Using {public_ip} as external address"),
        None => info!("Defaulting external address to interface address ({addr})"),
    }
    let public_ip = public_ip.unwrap_or(addr);
    info!(
        "chose interface {name} because {why}; bound to {addr}, MTU {mtu}, peers send to {public_ip}"
    );
    Ok(ExternalInterface { name: name.clone(), mtu: *mtu, addr, public_ip })
}

/// An interface with the address to bind to, and why it is that one.
struct Choice<'a> {
    link: &'a HostLink,
    addr: Ipv4Addr,
    why: String,
}

fn choose<'a>(
    host: &'a HostView,
    specs: &[IfaceSpec],
    public_ip: Option<Ipv4Addr>,
    say: &dyn Fn(&str),
) -> Result<Choice<'a>, IfaceError> {
    match (specs, public_ip) {
        ([], Some(addr)) => owner(host, addr)
            .map(|link| Choice { link, addr, why: "it has the --public-ip".to_owned() })
            .ok_or_else(|| IfaceError::PublicIpElsewhere { addr, present: present(host) }),
        ([], None) => by_default_route(host, say),
        (specs, _) => first_fitting(host, specs, say),
    }
}

fn first_fitting<'a>(
    host: &'a HostView,
    specs: &[IfaceSpec],
    say: &dyn Fn(&str),
) -> Result<Choice<'a>, IfaceError> {
    let mut tried = Vec::new();
    for spec in specs {
        match fitting(host, spec) {
            Ok(choice) => return Ok(choice),
            Err(reason) => {
                say(&format!("Could not find an interface by {spec}: {reason}"));
                tried.push(if reason == NO_ADDR {
                    format!("{spec} ({reason})")
                } else {
                    spec.to_string()
                });
            }
        }
    }
    Err(IfaceError::NoneFits { tried: tried.join(", "), present: present(host) })
}

/// Why an interface that is there does not do.
const NO_ADDR: &str = "it has no usable IPv4 address";

/// The interface that `spec` leads to, or why to none.
fn fitting<'a>(host: &'a HostView, spec: &IfaceSpec) -> Result<Choice<'a>, &'static str> {
    let (link, addr, why) = match spec {
        IfaceSpec::Addr(addr) => {
            let link = owner(host, *addr).ok_or("no interface has this address")?;
            (link, *addr, "has that address")
        }
        IfaceSpec::Name(name) => {
            let link = host.links.iter().find(|link| link.name == *name);
            let link = link.ok_or("there is no such interface")?;
            (link, best_addr(link).ok_or(NO_ADDR)?, "has that name")
        }
        IfaceSpec::Regex(regex) => match matching_addr(host, regex) {
            Some((link, addr)) => (link, addr, "has an address that matches"),
            None => {
                let link = host.links.iter().find(|link| regex.matches(&link.name));
                let link = link.ok_or("no usable address and no name matches")?;
                (link, best_addr(link).ok_or(NO_ADDR)?, "has a name that matches")
            }
        },
        IfaceSpec::CanReach(to) => {
            let reached = host.reached.iter().find(|reached| reached.addr == *to);
            let reached = reached.ok_or("there is no route to it")?;
            let link = host.links.iter().find(|link| link.index == reached.link);
            (link.ok_or("its interface is gone")?, reached.src, "is on the way to it")
        }
    };
    if !is_unicast(addr) {
        return Err(NO_ADDR);
    }
    Ok(Choice { link, addr, why: format!("it {why}: {spec}") })
}

/// The first link, in the kernel's order, with a usable address whose text matches.
fn matching_addr<'a>(host: &'a HostView, regex: &IfaceRegex) -> Option<(&'a HostLink, Ipv4Addr)> {
    host.links.iter().find_map(|link| {
        let mut usable = link.addrs.iter().filter(|own| is_unicast(own.addr) && !own.deprecated);
        let matching = usable.find(|own| regex.matches(&own.addr.to_string()))?;
        Some((link, matching.addr))
    })
}

/// The name of the link whose hosts all get what is sent to `addr`.
fn broadcasts_to(host: &HostView, addr: Ipv4Addr) -> Option<&str> {
    // A shorter range than /30 has none: RFC 3021.
    let is_it = |own: &HostAddr| {
        own.prefix_len <= 30
            && Ipv4Network::containing(own.addr, own.prefix_len)
                .is_ok_and(|s| s.broadcast() == addr)
    };
    let link = host.links.iter().find(|link| link.addrs.iter().any(is_it))?;
    Some(&link.name)
}

fn owner(host: &HostView, addr: Ipv4Addr) -> Option<&HostLink> {
    host.links.iter().find(|link| link.addrs.iter().any(|own| own.addr == addr))
}

fn by_default_route<'a>(host: &'a HostView, say: &dyn Fn(&str)) -> Result<Choice<'a>, IfaceError> {
    say("Determining IP address of default interface");
    let route = host
        .routes
        .iter()
        .filter(|route| route.dst.prefix() == 0)
        .min_by_key(|route| route.metric)
        .ok_or_else(|| IfaceError::NoDefaultRoute { present: present(host) })?;
    let link = host
        .links
        .iter()
        .find(|link| Some(link.index) == route.link)
        .ok_or_else(|| IfaceError::Multipath { present: present(host) })?;
    let addr = best_addr(link).ok_or_else(|| IfaceError::NoAddress { name: link.name.clone() })?;
    Ok(Choice { link, addr, why: "the default route leaves by it".to_owned() })
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

/// Global or link-local unicast.
const fn is_unicast(addr: Ipv4Addr) -> bool {
    unusable(addr).is_none()
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
        // With a zone, or in brackets as in a URL, it is one too.
        let bare = text.split('%').next().unwrap_or(text);
        if let Ok(addr) = bare.trim_matches(['[', ']']).parse() {
            return Err(SpecError::Ipv6(addr));
        }
        let Ok(addr) = text.parse() else { return Ok(Self::Name(text.to_owned())) };
        match unusable(addr) {
            Some(what) => Err(SpecError::Unusable { addr, what }),
            None => Ok(Self::Addr(addr)),
        }
    }
}

impl IfaceRegex {
    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for IfaceRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for IfaceRegex {}

impl FromStr for IfaceRegex {
    type Err = RegexError;

    fn from_str(text: &str) -> Result<Self, RegexError> {
        Regex::new(text).map(Self).map_err(|_| RegexError(text.to_owned()))
    }
}

impl fmt::Display for IfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "--iface {addr}"),
            Self::Name(name) => write!(f, "--iface {name}"),
            Self::Regex(regex) => write!(f, "--iface-regex {}", regex.0),
            Self::CanReach(addr) => write!(f, "--iface-can-reach {addr}"),
        }
    }
}

#[cfg(test)]
mod tests;
