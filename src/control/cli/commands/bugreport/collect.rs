//! What is in a report.

use std::fs;

use crate::control::observe::api::paths;

/// What the daemon is asked for.
pub(super) const PATHS: [&str; 7] =
    [paths::STATUS, paths::DROPS, paths::WORKERS, "/healthz", "/readyz", "/stats", "/metrics"];

/// Programs that show the host's network. They change nothing.
pub(super) const COMMANDS: [&str; 15] = [
    "ip -d -s link",
    "ip addr",
    "ip rule",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip neigh",
    "bridge fdb",
    "iptables -V",
    "iptables-save -c",
    "ip6tables-save -c",
    "nft list ruleset",
    "ss -lnup",
    "nstat -az",
    "sysctl net.ipv4.ip_forward net.ipv4.conf net.core.rmem_max net.core.wmem_max",
    "lsmod",
];

/// Files of the host that say what it is, by what they show.
pub(super) fn host() -> Vec<(&'static str, String)> {
    const FILES: [(&str, &str); 6] = [
        ("kernel", "/proc/version"),
        ("distribution", "/etc/os-release"),
        ("processors", "/proc/cpuinfo"),
        ("memory", "/proc/meminfo"),
        ("load", "/proc/loadavg"),
        ("uptime", "/proc/uptime"),
    ];
    let read = |path| fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}"));
    FILES.map(|(title, path)| (title, shorten(title, &read(path)))).to_vec()
}

/// Of many processors one is enough.
fn shorten(title: &str, text: &str) -> String {
    if title != "processors" {
        return text.to_owned();
    }
    let number = text.lines().filter(|line| line.starts_with("processor")).count();
    let first = text.split("\n\n").next().unwrap_or_default();
    format!("{number} processors; the first:\n{first}")
}
