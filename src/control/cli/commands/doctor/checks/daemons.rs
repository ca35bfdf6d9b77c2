//! flanneld itself, and programs that are in its way.

use super::super::facts::{CpuLimit, Daemon, Facts, Said};
use super::super::finding::Finding;
use super::leases::has_two_leases;
use crate::control::cli::commands::survey::Wire;

/// Percent of periods in which a limit of CPU time may make flanneld wait without a word.
const WAITS: u64 = 10;

pub(super) fn privileges(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "privileges";
    if facts.user.has_net_admin {
        return vec![Finding::ok(NAME, "CAP_NET_ADMIN")];
    }
    let text = "without CAP_NET_ADMIN some things cannot be seen, and flanneld would not start";
    vec![Finding::warn(NAME, text, "run it as root, or in a container with --cap-add NET_ADMIN")]
}

pub(super) fn running(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "flanneld";
    match facts.daemons.as_slice() {
        [] if facts.files.subnet_env.is_some() => {
            let text = format!(
                "it does not run, and {} says that it ran",
                facts.config.subnet_file.display()
            );
            vec![Finding::fail(NAME, text, "systemctl status flanneld; journalctl -u flanneld -e")]
        }
        [] => vec![Finding::warn(NAME, "it does not run here", "systemctl start flanneld")],
        [Daemon { pid, is_stopped: true, .. }] => {
            let text = format!("it has pid {pid}, and a signal (SIGSTOP) has stopped it");
            vec![Finding::fail(NAME, text, format!("kill -CONT {pid}"))]
        }
        [Daemon { pid, cpu_limit: Some(CpuLimit { percent, waited }), .. }] if *waited >= WAITS => {
            let text = format!(
                "it has pid {pid}, and a control group gives it {percent} % of a CPU: it had to wait \
                 in {waited} % of all periods"
            );
            vec![Finding::warn(
                NAME,
                text,
                "systemctl set-property flanneld CPUQuota=, or the \
                                            container's CPU limit",
            )]
        }
        [daemon] => vec![Finding::ok(NAME, format!("it runs with pid {}", daemon.pid))],
        several => {
            let pids: Vec<String> = several.iter().map(|it| it.pid.to_string()).collect();
            let text = format!("several run here: pids {}", pids.join(", "));
            let advice = "stop all but one, unless each has a network, a port and a --subnet-file of \
                          its own";
            vec![Finding::warn(NAME, text, advice)]
        }
    }
}

/// What the running daemon says of itself, and no other check looks at afresh: the daemon may have
/// looked some seconds ago.
pub(super) fn says(facts: &Facts) -> Vec<Finding> {
    let is_checked = |said: &&Said| match said.name.as_str() {
        "forwarding" | "bridge" | "malformed" => true,
        "forward_rules" => facts.rules.unread.is_empty(),
        "silent_peers" => facts.user.may_ping && facts.num_unasked == 0,
        "registry" => !said.is_failure,
        "peer_routes" => said.text.contains("away from the overlay") && facts.device().is_some(),
        // It is part of the line about two leases.
        "conflicts" | "lease" => has_two_leases(facts),
        _ => false,
    };

    let finding = |said: &Said| {
        let advice = "flanneld status";
        if said.is_failure {
            Finding::fail("status", said.text.clone(), advice)
        } else {
            Finding::warn("status", said.text.clone(), advice)
        }
    };
    facts.said.iter().filter(|said| !is_checked(said)).map(finding).collect()
}

pub(super) fn files(facts: &Facts) -> Vec<Finding> {
    let notes = facts.config.warnings.iter();
    notes.map(|note| Finding::warn("flags", note.clone(), "flanneld --help")).collect()
}

pub(super) fn directory(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "directory";
    match &facts.files.unwritable {
        Some(reason) => {
            let advice = "df -h and df -i of it; mount; ls -ld";
            vec![Finding::fail(NAME, format!("subnet.env cannot be written: {reason}"), advice)]
        }
        None => Vec::new(),
    }
}

/// Whether the port is flanneld's.
pub(super) fn port(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "port";
    let Some(own) = &facts.own else { return Vec::new() };
    let Some(port) = own.wire.port() else { return Vec::new() };
    let takes = |addr: std::net::Ipv4Addr| addr.is_unspecified() || addr == own.addr;
    let mut holders = facts.udp_ports.iter().filter(|it| it.port == port && takes(it.addr));
    let is_ours = |pid: u32| {
        matches!(own.wire, Wire::Udp { .. }) && facts.daemons.iter().any(|it| it.pid == pid)
    };
    let is_kernels = matches!(own.wire, Wire::Vxlan { .. }) && own.device.is_some();
    let other = holders.clone().find(|it| match &it.owner {
        Some((_, pid)) => !is_ours(*pid),
        None => !is_kernels && facts.user.has_net_admin,
    });
    if let Some(other) = other {
        let owner = match &other.owner {
            Some((name, pid)) => format!("{name} with pid {pid}"),
            None => "the kernel, for a device of its own,".to_owned(),
        };
        let text = format!("UDP {port} of {} belongs to {owner}", other.addr);
        let advice = "ss -lunp; stop it, or give Backend.Port another number";
        return vec![Finding::fail(NAME, text, advice)];
    }
    let is_open = holders.next().is_some();
    let is_udp = matches!(own.wire, Wire::Udp { .. });
    match (is_open, facts.daemons.is_empty(), own.device.is_some()) {
        (true, _, _) => vec![Finding::ok(NAME, format!("UDP {port} is flanneld's"))],
        (false, false, true) if is_udp => {
            let text = format!("flanneld runs, and nobody listens on UDP {port} of {}", own.addr);
            vec![Finding::fail(NAME, text, "flanneld status; systemctl restart flanneld")]
        }
        (false, _, _) => vec![Finding::ok(NAME, format!("UDP {port} is free"))],
    }
}

/// Devices of other overlays, and those that another backend left.
pub(super) fn others(facts: &Facts) -> Vec<Finding> {
    const OTHERS: [(&str, &str); 7] = [
        ("cali", "Calico"),
        ("vxlan.calico", "Calico"),
        ("tunl0", "Calico or IPIP"),
        ("weave", "Weave Net"),
        ("cilium_", "Cilium"),
        ("ovn", "OVN"),
        ("kube-router", "kube-router"),
    ];
    let mut found = Vec::new();
    for (start, program) in OTHERS {
        let is_up = |name: &str| facts.links.iter().any(|it| it.link.name == name && it.link.is_up);
        let first = facts.links.iter().map(|it| it.link.name.as_str());
        let first = first.filter(|name| name.starts_with(start)).find(|name| is_up(name));
        if let Some(name) = first {
            let text = format!("{name} is a device of {program}: two overlays on one host");
            let advice = "only one of the two may give containers their addresses and routes";
            found.push(Finding::warn("others", text, advice));
        }
    }
    let Some(own) = &facts.own else { return found };
    let device = own.device.as_ref().map(|device| device.name.as_str());
    let is_flannels = |name: &str| {
        name.strip_prefix("flannel")
            .is_some_and(|rest| rest.strip_prefix('.').unwrap_or(rest).parse::<u32>().is_ok())
    };
    let left = facts.links.iter().map(|it| it.link.name.as_str());
    for name in left.filter(|name| is_flannels(name) && Some(*name) != device) {
        if facts.daemons.len() > 1 || (device.is_none() && !facts.daemons.is_empty()) {
            continue; // it may be that of one that runs
        }
        let text = format!("{name} is left of another backend or of an earlier run");
        let advice = format!("ip link del {name}, or flanneld --cleanup while flanneld is stopped");
        found.push(Finding::warn("leftovers", text, advice));
    }
    found
}

/// Programs that remove addresses and routes which are not theirs.
pub(super) fn managers(facts: &Facts) -> Vec<Finding> {
    let finding = |(device, manager): &(String, &'static str)| {
        let text = format!("{manager} manages {device}: it may remove its addresses and routes");
        let advice = match *manager {
            "NetworkManager" => format!(
                "in /etc/NetworkManager/conf.d/flannel.conf: [keyfile] \
                 unmanaged-devices=interface-name:{device}"
            ),
            _ => format!(
                "in /etc/systemd/network/00-flannel.network: [Match] Name={device} [Link] \
                 Unmanaged=yes"
            ),
        };
        Finding::warn("managers", text, advice)
    };
    facts.managed.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, link, only};
    use super::*;
    use crate::control::cli::commands::doctor::facts::UdpPort;

    #[test]
    fn healthy_host_has_no_fault() {
        for check in [privileges, running, says, files, directory, port, others, managers] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn daemon_that_is_gone_fails_and_one_that_never_ran_warns() {
        let mut facts = facts();
        facts.daemons[0].cpu_limit = Some(CpuLimit { percent: 5, waited: 9 });
        assert_eq!(levels(&running(&facts)), (0, 0));
        facts.daemons[0].cpu_limit = Some(CpuLimit { percent: 5, waited: 60 });
        assert!(only(running(&facts)).text.contains("gives it 5 % of a CPU"));
        facts.daemons[0].is_stopped = true;
        assert_eq!(only(running(&facts)).advice.as_deref(), Some("kill -CONT 7"));
        facts.daemons.push(Daemon { pid: 8, ..Daemon::default() });
        assert_eq!(levels(&running(&facts)), (1, 0));
        facts.daemons.clear();
        assert_eq!(levels(&running(&facts)), (0, 1));
        facts.files.subnet_env = None;
        assert_eq!(levels(&running(&facts)), (1, 0));
    }

    #[test]
    fn what_the_daemon_says_is_repeated() {
        let mut facts = facts();
        let said = |name: &str, is_failure, text: &str| Said {
            name: name.to_owned(),
            is_failure,
            text: text.to_owned(),
        };
        let expired = said("lease", true, "lease: it has expired");
        facts.said = vec![expired, said("config", false, "it is another one")];
        assert_eq!(levels(&says(&facts)), (1, 1));
        let stale = said("silent_peers", false, "peer 192.0.2.9 does not answer");
        facts.said = vec![stale, said("forwarding", false, "net.ipv4.ip_forward is 0")];
        assert_eq!(levels(&says(&facts)), (0, 0), "other checks have looked");
        facts.num_unasked = 1;
        assert_eq!(levels(&says(&facts)), (1, 0));
        facts.config.warnings = vec!["flag -x is ignored".to_owned()];
        assert_eq!(levels(&files(&facts)), (1, 0));
    }

    #[test]
    fn port_of_another_program_fails() {
        let mut facts = facts();
        facts.udp_ports[0].owner = Some(("socat".to_owned(), 99));
        assert_eq!(only(port(&facts)).text, "UDP 8285 of 192.0.2.1 belongs to socat with pid 99");
        facts.udp_ports.clear();
        assert!(only(port(&facts)).text.contains("nobody listens on UDP 8285"));
        facts.daemons.clear();
        assert_eq!(levels(&port(&facts)), (0, 0), "it is free");
        let addr = [0, 0, 0, 0].into();
        facts.udp_ports = vec![UdpPort { addr, port: 8285, owner: None }];
        assert!(only(port(&facts)).text.contains("the kernel"));
    }

    #[test]
    fn other_overlays_leftovers_and_managers_warn() {
        let mut facts = facts();
        facts.links.push(link(8, "weave", Some("bridge"), "10.32.0.1/12", 1376));
        facts.links.push(link(9, "flannel.1", Some("vxlan"), "10.5.3.0/32", 1450));
        let found = others(&facts);
        assert_eq!(levels(&found), (2, 0));
        assert!(found[1].advice.as_ref().unwrap().starts_with("ip link del flannel.1"));
        let device = facts.own.as_mut().unwrap().device.take();
        assert_eq!(levels(&others(&facts)), (1, 0), "flanneld runs, and it may be its device");
        facts.own.as_mut().unwrap().device = device;
        facts.managed = vec![("flannel0".to_owned(), "NetworkManager")];
        assert!(only(managers(&facts)).advice.unwrap().contains("unmanaged-devices"));
        facts.files.unwritable = Some("/run/flannel: no space left on device".to_owned());
        assert_eq!(levels(&directory(&facts)), (0, 1));
        facts.user.has_net_admin = false;
        assert_eq!(levels(&privileges(&facts)), (1, 0));
    }
}
