//! [`select`]: chooses among the host's interfaces, as `LookupExtIface` in flannel's
//! `pkg/ipmatch/match.go`. Does no I/O.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tracing::info;

use super::spec::{IfaceRegex, IfaceSpec};
use super::{ExternalInterface, HostAddr, HostLink, HostView};
use crate::routes::{Prefix, unusable};

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
    /// No interface has the address of `--public-ip`.
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
pub(super) struct Choice<'a> {
    pub(super) link: &'a HostLink,
    pub(super) addr: Ipv4Addr,
    why: String,
}

pub(super) fn choose<'a>(
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
pub(super) fn best_addr(link: &HostLink) -> Option<Ipv4Addr> {
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
