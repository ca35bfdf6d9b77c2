//! Settings and features of the kernel.

use std::fs;
use std::path::Path;

use super::super::facts::Kernel;
use crate::control::host::findings::sysctl;
use crate::control::host::net::LinkDetails;
use crate::control::host::preflight;
use crate::control::util::error_chain::error_chain;

/// Settings of the whole host.
const SETTINGS: [&str; 9] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.icmp_echo_ignore_all",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.ipv6.conf.all.disable_ipv6",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.bridge.bridge-nf-call-iptables",
];

/// Modules that some backend needs.
const MODULES: [&str; 2] = ["tun", "vxlan"];

pub(super) fn read(links: &[LinkDetails]) -> Kernel {
    let of_links = links.iter().flat_map(|it| {
        let name = it.link.name.replace('.', "/");
        ["rp_filter", "forwarding", "arp_ignore"]
            .map(|setting| format!("net.ipv4.conf.{name}.{setting}"))
    });
    let names = SETTINGS.iter().map(|name| (*name).to_owned()).chain(of_links);
    let sysctls = names.filter_map(|name| Some((sysctl(&name)?, name)));
    let neighbours = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    Kernel {
        sysctls: sysctls.map(|(value, name)| (name, value)).collect(),
        no_tun: preflight::check_tun().err().map(|error| error_chain(&error)),
        missing_modules: MODULES.into_iter().filter(|name| !has_module(name)).collect(),
        has_bridge_nf: Path::new("/proc/sys/net/bridge").exists(),
        num_neighbours: neighbours.lines().count().saturating_sub(1),
    }
}

/// Whether a module is loaded, built in, or there to be loaded. Without a list of modules, as in a
/// container, it may be.
fn has_module(name: &str) -> bool {
    if Path::new("/sys/module").join(name).exists() {
        return true;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let directory = Path::new("/lib/modules").join(release.trim());
    let lists = ["modules.dep", "modules.builtin"];
    let lists = lists.iter().filter_map(|list| fs::read_to_string(directory.join(list)).ok());
    let lists: Vec<String> = lists.collect();
    lists.is_empty() || lists.iter().any(|list| list.contains(&format!("/{name}.ko")))
}
