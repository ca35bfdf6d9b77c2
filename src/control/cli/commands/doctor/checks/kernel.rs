//! The kernel: features, switches, tables.

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::cli::commands::survey::Wire;
use crate::control::host::findings::{bridge_problem, no_forwarding};

/// How full a table may be, in percent.
const CROWDED: u64 = 80;
const FULL: u64 = 97;

pub(super) fn tun(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "tun";
    let is_needed = facts.own.as_ref().is_none_or(|own| matches!(own.wire, Wire::Udp { .. }));
    match &facts.kernel.no_tun {
        Some(reason) if is_needed => {
            vec![Finding::fail(NAME, reason.clone(), "modprobe tun; ls -l /dev/net/tun")]
        }
        Some(_) => Vec::new(),
        None => vec![Finding::ok(NAME, "/dev/net/tun opens")],
    }
}

pub(super) fn modules(facts: &Facts) -> Vec<Finding> {
    let is_vxlan = facts.own.as_ref().is_some_and(|own| matches!(own.wire, Wire::Vxlan { .. }));
    let wanted = |name: &str| name != "vxlan" || is_vxlan;
    let missing = facts.kernel.missing_modules.iter().filter(|name| wanted(name));
    let finding = |name: &&str| {
        let text = format!("this kernel has no module {name}");
        let advice =
            format!("modprobe {name}; install the package of the kernel's further modules");
        match (is_vxlan, *name) {
            (true, "vxlan") => Finding::fail("modules", text, advice),
            (_, _) => Finding::warn("modules", text, advice),
        }
    };
    missing.map(finding).collect()
}

pub(super) fn forwarding(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "forwarding";
    let overlay = facts.overlay();
    let bridge = overlay.as_ref().and_then(|overlay| bridge_problem(&facts.links, overlay).0);
    let device = overlay.as_ref().map(|overlay| overlay.device.clone());
    let links: Vec<&str> = bridge.iter().chain(&device).map(String::as_str).collect();
    match no_forwarding(&links, |name| facts.sysctl(name).map(str::to_owned)) {
        Some(problem) => vec![Finding::fail(NAME, problem.text, problem.advice)],
        None => vec![Finding::ok(NAME, "net.ipv4.ip_forward is 1")],
    }
}

/// Strict reverse-path filters drop what comes in by another link than the answer would take.
pub(super) fn reverse_path(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "rp_filter";
    let value = |link: &str| -> u8 {
        let name = format!("net.ipv4.conf.{}.rp_filter", link.replace('.', "/"));
        facts.sysctl(&name).and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let all = value("all");
    // The larger of the two counts, and 2 is loose: ip-sysctl.rst.
    let is_strict = |link: &str| all.max(value(link)) == 1;
    let is_other_way = facts.peers.iter().any(|peer| !peer.verdict.ok);
    let device = facts.device().filter(|it| it.kind.is_some()).map(|it| it.link.name.clone());
    let iface = facts.iface.as_ref().map(|iface| iface.name.clone());
    let strict: Vec<String> = device.into_iter().chain(iface).filter(|it| is_strict(it)).collect();
    match strict.as_slice() {
        [] => vec![Finding::ok(NAME, "not strict")],
        // It harms only packets that come by a way which the answers do not take.
        _ if !is_other_way => vec![Finding::ok(NAME, format!("strict on {}", strict.join(", ")))],
        [first, ..] => {
            let text = format!(
                "strict on {}: packets that come by another link than the answers take are dropped",
                strict.join(", ")
            );
            let all = if all == 1 { " net.ipv4.conf.all.rp_filter=2" } else { "" };
            let advice =
                format!("sysctl -w net.ipv4.conf.{}.rp_filter=2{all}", first.replace('.', "/"));
            vec![Finding::warn(NAME, text, advice)]
        }
    }
}

/// Settings with which this host does not answer what its containers and peers ask.
pub(super) fn answers(facts: &Facts) -> Vec<Finding> {
    let number = |name: &str| facts.sysctl(name).and_then(|value| value.parse::<u8>().ok());
    let mut found = Vec::new();
    let overlay = facts.overlay();
    let bridge = overlay.as_ref().and_then(|overlay| bridge_problem(&facts.links, overlay).0);
    let iface = facts.iface.as_ref().map(|iface| iface.name.clone());
    const ALL: &str = "net.ipv4.conf.all.arp_ignore";
    // The larger of the two counts, and 8 answers nothing: ip-sysctl.rst.
    const NOTHING: u8 = 8;
    let names = [(bridge, "containers"), (iface, "peers")];
    for (link, whom) in names.into_iter().filter_map(|(link, whom)| Some((link?, whom))) {
        let name = format!("net.ipv4.conf.{}.arp_ignore", link.replace('.', "/"));
        let name = if number(ALL) >= Some(NOTHING) { ALL } else { name.as_str() };
        if number(name) >= Some(NOTHING) {
            let text = format!("{name} is 8: this host answers no ARP on {link}, where {whom} ask");
            found.push(Finding::fail("arp", text, format!("sysctl -w {name}=0")));
        }
    }
    const ECHO: &str = "net.ipv4.icmp_echo_ignore_all";
    if number(ECHO) == Some(1) {
        let text = format!("{ECHO} is 1: peers that ask whether this host is alive get no answer");
        found.push(Finding::warn("echo", text, format!("sysctl -w {ECHO}=0")));
    }
    found
}

/// The queue of the TUN device, which is where it keeps packets for flanneld.
pub(super) fn queue(facts: &Facts) -> Vec<Finding> {
    let Some(device) = facts.device().filter(|it| it.is_kind("tun")) else { return Vec::new() };
    if device.queue_len > 0 {
        return Vec::new();
    }
    let name = &device.link.name;
    let text = format!("{name} has a queue of length 0: it drops each packet to a peer");
    vec![Finding::fail("queue", text, format!("ip link set {name} txqueuelen 1000"))]
}

pub(super) fn tables(facts: &Facts) -> Vec<Finding> {
    let number = |name: &str| facts.sysctl(name).and_then(|value| value.parse::<u64>().ok());
    let mut found = Vec::new();
    let mut compare = |name: &'static str, what: &str, used: u64, max: u64, setting: &str| {
        if max == 0 || used * 100 < max * CROWDED {
            return;
        }
        let text = format!("{used} of at most {max} {what}: new ones are refused once it is full");
        let advice = format!("sysctl -w {setting}={}", max * 2);
        found.push(if used * 100 >= max * FULL {
            Finding::fail(name, text, advice)
        } else {
            Finding::warn(name, text, advice)
        });
    };
    const CONNTRACK: &str = "net.netfilter.nf_conntrack_max";
    if let (Some(used), Some(max)) = (number("net.netfilter.nf_conntrack_count"), number(CONNTRACK))
    {
        compare("conntrack", "tracked connections", used, max, CONNTRACK);
    }
    const NEIGHBOURS: &str = "net.ipv4.neigh.default.gc_thresh3";
    if let Some(max) = number(NEIGHBOURS) {
        let used = u64::try_from(facts.kernel.num_neighbours).unwrap_or(u64::MAX);
        compare("neighbours", "neighbour entries", used, max, NEIGHBOURS);
    }
    for daemon in &facts.daemons {
        if let Some(max) = daemon.open_files.filter(|max| *max < 256) {
            let text = format!("flanneld with pid {} may open only {max} files", daemon.pid);
            found.push(Finding::warn(
                "ulimit",
                text,
                "LimitNOFILE=4096 in its unit, or ulimit -n 4096",
            ));
        }
    }
    found
}

/// What CNI plugins and kube-proxy need.
pub(super) fn bridge_filter(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "br_netfilter";
    let has_cni = facts.links.iter().any(|it| it.link.name == "cni0");
    if !has_cni || facts.kernel.has_bridge_nf {
        return Vec::new();
    }
    let text = "br_netfilter is not loaded: packets between two pods of this host pass by the rules \
                of Kubernetes services";
    vec![Finding::warn(NAME, text, "modprobe br_netfilter")]
}

pub(super) fn ipv6(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "ipv6";
    let is_dual = facts.registry.network.as_ref().is_some_and(|network| network.v6.is_some());
    if is_dual && facts.sysctl("net.ipv6.conf.all.disable_ipv6") == Some("1") {
        let text = "the network has EnableIPv6, and this kernel has IPv6 switched off";
        return vec![Finding::warn(NAME, text, "sysctl -w net.ipv6.conf.all.disable_ipv6=0")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only, with_sysctl};
    use super::*;
    use crate::control::cli::commands::doctor::facts::Daemon;

    #[test]
    fn healthy_host_has_no_fault() {
        for check in
            [tun, modules, forwarding, reverse_path, answers, queue, tables, bridge_filter, ipv6]
        {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn forwarding_that_is_off_fails_with_the_command_that_switches_it_on() {
        let found = only(forwarding(&with_sysctl("net.ipv4.ip_forward", "0")));
        assert_eq!(found.advice.as_deref(), Some("sysctl -w net.ipv4.ip_forward=1"));
        let found = only(forwarding(&with_sysctl("net.ipv4.conf.docker0.forwarding", "0")));
        assert!(found.text.contains("docker0"), "{found:?}");
    }

    #[test]
    fn strict_reverse_path_filter_counts_when_a_peer_is_not_well() {
        let mut facts = with_sysctl("net.ipv4.conf.eth0.rp_filter", "1");
        assert_eq!(levels(&reverse_path(&facts)), (0, 0));
        facts.peers[0].verdict.ok = false;
        let found = only(reverse_path(&facts));
        assert_eq!(found.advice.as_deref(), Some("sysctl -w net.ipv4.conf.eth0.rp_filter=2"));
        facts.kernel.sysctls.insert("net.ipv4.conf.all.rp_filter".to_owned(), "2".to_owned());
        assert_eq!(levels(&reverse_path(&facts)), (0, 0), "the larger of the two counts");
    }

    #[test]
    fn host_that_answers_no_arp_or_echo_is_named() {
        let found = only(answers(&with_sysctl("net.ipv4.conf.docker0.arp_ignore", "8")));
        assert!(found.text.ends_with("answers no ARP on docker0, where containers ask"));
        let mut facts = with_sysctl("net.ipv4.conf.eth0.arp_ignore", "1");
        assert!(answers(&facts).is_empty());
        facts.kernel.sysctls.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "8".to_owned());
        let found = answers(&facts);
        assert_eq!(levels(&found), (0, 2));
        assert_eq!(found[1].advice.as_deref(), Some("sysctl -w net.ipv4.conf.all.arp_ignore=0"));
        let facts = with_sysctl("net.ipv4.icmp_echo_ignore_all", "1");
        assert_eq!(levels(&answers(&facts)), (1, 0));
    }

    #[test]
    fn device_without_a_queue_fails() {
        let mut facts = facts();
        facts.links[3].queue_len = 0;
        assert!(only(queue(&facts)).text.starts_with("flannel0 has a queue of length 0"));
    }

    #[test]
    fn tables_that_are_full_fail_and_crowded_ones_warn() {
        let mut facts = with_sysctl("net.netfilter.nf_conntrack_max", "1000");
        let count = "net.netfilter.nf_conntrack_count";
        for (used, expected) in [("500", (0, 0)), ("850", (1, 0)), ("1000", (0, 1))] {
            facts.kernel.sysctls.insert(count.to_owned(), used.to_owned());
            assert_eq!(levels(&tables(&facts)), expected, "{used}");
        }
        facts.kernel.sysctls.remove(count);
        facts.kernel.num_neighbours = 1020;
        facts.kernel.sysctls.insert("net.ipv4.neigh.default.gc_thresh3".into(), "1024".into());
        assert_eq!(only(tables(&facts)).check, "neighbours");
        facts.kernel.num_neighbours = 0;
        facts.daemons = vec![Daemon { pid: 7, open_files: Some(64), ..Daemon::default() }];
        assert_eq!(only(tables(&facts)).check, "ulimit");
    }

    #[test]
    fn missing_features_are_named_where_they_are_needed() {
        let mut facts = facts();
        facts.kernel.no_tun = Some("/dev/net/tun is missing".to_owned());
        facts.kernel.missing_modules = vec!["vxlan"];
        assert_eq!(levels(&tun(&facts)), (0, 1));
        assert!(modules(&facts).is_empty(), "a udp network");
        facts.own.as_mut().unwrap().wire = Wire::Vxlan { port: 8472 };
        assert!(tun(&facts).is_empty());
        assert_eq!(levels(&modules(&facts)), (0, 1));
    }

    #[test]
    fn bridge_filter_and_ipv6_matter_to_those_who_use_them() {
        let mut facts = with_sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        facts.kernel.has_bridge_nf = false;
        assert!(ipv6(&facts).is_empty() && bridge_filter(&facts).is_empty());
        facts.links[2].link.name = "cni0".to_owned();
        assert_eq!(levels(&bridge_filter(&facts)), (1, 0));
        let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32"}"#;
        facts.registry.network = Some(crate::control::config::network::parse(dual, None).unwrap());
        assert_eq!(levels(&ipv6(&facts)), (1, 0));
    }
}
