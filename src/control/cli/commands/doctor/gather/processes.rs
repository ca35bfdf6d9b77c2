//! Processes, their sockets, and services.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use procfs::process::{FDTarget, LimitValue, ProcState, Process, all_processes};

use super::super::facts::{CpuLimit, Daemon, UdpPort};
use crate::control::host::firewall::trace::Rules;
use crate::control::host::net::LinkDetails;

/// The running flannelds with these pids.
pub(super) fn daemons(pids: &[u32]) -> Vec<Daemon> {
    let open_files = |pid: u32| {
        let limits = Process::new(i32::try_from(pid).ok()?).ok()?.limits().ok()?;
        match limits.max_open_files.soft_limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        }
    };
    let daemon = |pid: u32| Daemon {
        pid,
        is_stopped: is_stopped(pid),
        cpu_limit: cpu_limit(pid),
        open_files: open_files(pid),
    };
    pids.iter().copied().map(daemon).collect()
}

fn is_stopped(pid: u32) -> bool {
    let state = || Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?.state().ok();
    state() == Some(ProcState::Stopped)
}

/// Control groups of version 2, where systemd and container runtimes mount them.
fn cpu_limit(pid: u32) -> Option<CpuLimit> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = Path::new("/sys/fs/cgroup").join(group);
    let read = |name| fs::read_to_string(directory.join(name)).ok();
    limit_of(&read("cpu.max")?, &read("cpu.stat")?)
}

/// From the files `cpu.max` and `cpu.stat`: cgroup-v2.rst.
fn limit_of(max: &str, stat: &str) -> Option<CpuLimit> {
    let mut words = max.split_whitespace().map(str::parse::<u64>);
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    let number = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let waited = (number("nr_throttled ")? * 100).checked_div(number("nr_periods ")?)?;
    Some(CpuLimit { percent: (quota * 100).checked_div(period)?, waited })
}

/// Sockets that are bound to `ports`, with their owners.
pub(super) fn udp_ports(ports: &[u16]) -> Vec<UdpPort> {
    let bound = procfs::net::udp().unwrap_or_default();
    let mut bound: Vec<_> =
        bound.into_iter().filter(|it| ports.contains(&it.local_address.port())).collect();
    if bound.is_empty() {
        return Vec::new();
    }
    bound.sort_by_key(|it| it.inode);
    bound.dedup_by_key(|it| it.inode);
    let owners = owners(&bound.iter().map(|it| it.inode).collect::<Vec<_>>());
    let ports = bound.iter().filter_map(|it| {
        let std::net::SocketAddr::V4(local) = it.local_address else { return None };
        let owner = owners.get(&it.inode).cloned();
        Some(UdpPort { addr: *local.ip(), port: local.port(), owner })
    });
    ports.collect()
}

/// Name and pid of the process that has each of the sockets.
fn owners(inodes: &[u64]) -> HashMap<u64, (String, u32)> {
    let mut owners = HashMap::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let Ok(descriptors) = process.fd() else { continue };
        for descriptor in descriptors.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && inodes.contains(&inode)
                && let Ok(pid) = u32::try_from(process.pid)
            {
                owners.insert(inode, (comm(process.pid), pid));
            }
        }
    }
    owners
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Programs that write firewall rules and are active here.
pub(super) fn services(rules: &Rules) -> Vec<&'static str> {
    let saved = |text: &str| rules.saved.iter().any(|(_, saved)| saved.contains(text));
    let nft = |text: &str| rules.nft.as_ref().is_some_and(|json| json.contains(text));
    let firewalld = nft(r#""name": "firewalld""#) || nft(r#""name":"firewalld""#);
    let ufw = saved(":ufw-before-forward");
    let found = [(firewalld || saved(":FWDI_public"), "firewalld"), (ufw, "ufw")];
    found.into_iter().filter(|(is_active, _)| *is_active).map(|(_, name)| name).collect()
}

/// Flannel's devices that a network manager takes care of.
pub(super) fn managed(links: &[LinkDetails]) -> Vec<(String, &'static str)> {
    let ours = links.iter().filter(|it| it.link.name.starts_with("flannel"));
    let found = ours.flat_map(|it| {
        let read = |directory: &str| {
            fs::read_to_string(format!("{directory}/{}", it.link.index)).unwrap_or_default()
        };
        let manager =
            manager(&read("/run/NetworkManager/devices"), &read("/run/systemd/netif/links"));
        manager.map(|manager| (it.link.name.clone(), manager))
    });
    found.collect()
}

/// Who manages a device, from the files in which NetworkManager and systemd-networkd keep its state.
fn manager(of_network_manager: &str, of_networkd: &str) -> Option<&'static str> {
    let is_managed = of_network_manager.lines().any(|line| line.trim() == "managed=true");
    let state = of_networkd.lines().find_map(|line| line.strip_prefix("ADMIN_STATE="));
    match (is_managed, state) {
        (true, _) => Some("NetworkManager"),
        (false, Some("configured" | "configuring" | "pending" | "failed")) => {
            Some("systemd-networkd")
        }
        (false, Some(_) | None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn bound_port_is_found_with_its_owner() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = udp_ports(&[port]);
        let (_, pid) = found[0].owner.clone().unwrap();
        assert_eq!((found.len(), found[0].port, pid), (1, port, std::process::id()));
        drop(socket);
        assert_eq!(udp_ports(&[port]), []);
    }

    #[test]
    fn limits_of_a_process_are_read() {
        let own = std::process::id();
        assert_eq!(daemons(&[own])[0].pid, own);
        assert_eq!(daemons(&[u32::MAX])[0].open_files, None);
        let stat = "usage_usec 9\nnr_periods 200\nnr_throttled 90\nthrottled_usec 5\n";
        assert_eq!(limit_of("max 100000\n", stat), None);
        let limit = CpuLimit { percent: 5, waited: 45 };
        assert_eq!(limit_of("5000 100000\n", stat), Some(limit));
        assert_eq!(limit_of("5000 100000\n", "nr_periods 0\nnr_throttled 0\n"), None);
    }

    #[test]
    fn stopped_process_is_known() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!is_stopped(child.id()));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
        let mut found = false;
        while !found && std::time::Instant::now() < deadline {
            found = is_stopped(child.id());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }

    #[test]
    fn firewall_managers_are_known_by_their_chains() {
        let rules = |saved: &str, nft: &str| Rules {
            saved: vec![("iptables".to_owned(), saved.to_owned())],
            nft: Some(nft.to_owned()),
            unread: Vec::new(),
        };
        assert!(services(&rules("*filter\n:FORWARD ACCEPT", "{}")).is_empty());
        assert_eq!(services(&rules(":ufw-before-forward - [0:0]", "{}")), ["ufw"]);
        let nft = r#"{"table": {"family": "inet", "name": "firewalld", "handle": 1}}"#;
        assert_eq!(services(&rules("", nft)), ["firewalld"]);
    }

    #[test]
    fn network_managers_are_known_by_their_state_files() {
        assert_eq!(manager("[device]\nmanaged=true\n", ""), Some("NetworkManager"));
        assert_eq!(manager("[device]\nmanaged=false\n", "ADMIN_STATE=unmanaged\n"), None);
        assert_eq!(manager("", "# x\nADMIN_STATE=configured\n"), Some("systemd-networkd"));
    }
}
