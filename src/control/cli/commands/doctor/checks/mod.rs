//! The checks: each looks at the [`Facts`] alone, and finds nothing, or a line or more.

mod containers;
mod daemons;
mod firewall;
mod kernel;
mod leases;
mod links;
mod overlay;
mod packets;
mod peers;
mod pod_ways;
mod registry;
mod rewrites;
mod routes;

#[cfg(test)]
mod fixture;

use self::peers::Explained;
use super::facts::Facts;
use super::finding::{Finding, Level};

/// One check.
type Check = fn(&Facts) -> Vec<Finding>;

/// Every check, in the order of the table: this process, the host, the registry, the overlay, peers.
const ALL: [Check; 42] = [
    daemons::privileges,
    daemons::running,
    daemons::says,
    daemons::files,
    daemons::directory,
    daemons::port,
    daemons::others,
    daemons::managers,
    kernel::tun,
    kernel::modules,
    kernel::forwarding,
    kernel::reverse_path,
    kernel::answers,
    kernel::queue,
    kernel::tables,
    kernel::bridge_filter,
    kernel::ipv6,
    links::arp,
    links::traffic_control,
    links::xdp,
    firewall::forward_rules,
    firewall::outer_rules,
    rewrites::nat,
    rewrites::may_drop,
    firewall::managers,
    registry::names,
    registry::answers,
    registry::config,
    registry::other_networks,
    registry::clock,
    leases::entries,
    leases::backends,
    leases::duplicates,
    leases::addresses,
    leases::own,
    overlay::interface,
    overlay::device,
    overlay::bridge,
    containers::containers,
    overlay::subnet_env,
    routes::ways,
    routes::overlaps,
];

/// Checks of this host whose failure keeps packets from peers: what peers answer then says no more.
const CAUSES: [&str; 10] = [
    "port",
    "port rules",
    "arp",
    "queue",
    "nat",
    "interface",
    "device",
    "routes",
    "overlap",
    pod_ways::NAME,
];

/// Checks whose failure turns packets of containers elsewhere.
const WAY_CAUSES: [&str; 4] = ["routes", "overlap", "bridge", "containers"];

/// Checks whose failure keeps containers from this host itself, too.
const LOCAL_CAUSES: [&str; 3] = ["arp", "bridge", "bridge rules"];

/// What all checks find. What follows from a fault of this host is not blamed on anything else.
pub(super) fn run(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<Finding> = ALL.iter().flat_map(|check| check(facts)).collect();
    let has = |found: &[Finding], causes: &[&str]| {
        found.iter().any(|it| it.level == Level::Fail && causes.contains(&it.check))
    };
    if has(&found, &LOCAL_CAUSES) {
        found.retain(|it| it.check != "containers" || it.level != Level::Warn);
    }
    if !has(&found, &WAY_CAUSES) {
        found.extend(pod_ways::pod_ways(facts));
    }
    let explained = if has(&found, &CAUSES)
        || has(&found, &["duplicates"]) && leases::is_ours_doubtful(facts)
    {
        Explained::All
    } else if found.iter().any(|it| it.check == "host rules") {
        Explained::Icmp
    } else {
        Explained::Nothing
    };
    found.extend(peers::answers(facts, explained));
    found
}
