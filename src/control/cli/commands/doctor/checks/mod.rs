//! The checks: each looks at the [`Facts`] alone, and finds nothing, or a line or more.

mod daemons;
mod firewall;
mod kernel;
mod leases;
mod overlay;
mod peers;
mod registry;
mod routes;

#[cfg(test)]
mod fixture;

use super::facts::Facts;
use super::finding::Finding;

/// One check.
type Check = fn(&Facts) -> Vec<Finding>;

/// Every check, in the order of the table: this process, the host, the registry, the overlay, peers.
const ALL: [Check; 32] = [
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
    kernel::tables,
    kernel::bridge_filter,
    kernel::ipv6,
    firewall::forward_rules,
    firewall::outer_rules,
    firewall::managers,
    registry::names,
    registry::answers,
    registry::config,
    registry::other_networks,
    registry::clock,
    leases::entries,
    leases::backends,
    leases::duplicates,
    leases::own,
    overlay::interface,
    overlay::device,
    overlay::bridge,
    overlay::subnet_env,
    routes::ways,
];

/// What all checks find.
pub(super) fn run(facts: &Facts) -> Vec<Finding> {
    let rest: [Check; 2] = [routes::overlaps, peers::answers];
    ALL.iter().chain(&rest).flat_map(|check| check(facts)).collect()
}
