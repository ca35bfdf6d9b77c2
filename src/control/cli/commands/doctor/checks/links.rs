//! What somebody put at the links of the overlay: queues, filters, programs, and ARP switched off.

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::host::findings::bridge_problem;
use crate::control::host::net::{LinkDetails, TrafficControl, TrafficHook};

/// Most findings of one kind.
const MAX_SHOWN: usize = 4;

/// ARP switched off where containers or peers ask by it.
pub(super) fn arp(facts: &Facts) -> Vec<Finding> {
    let overlay = facts.overlay();
    let bridge = overlay.as_ref().and_then(|overlay| bridge_problem(&facts.links, overlay).0);
    let iface = facts.iface.as_ref().map(|iface| iface.name.clone());
    let is_asked = |it: &&LinkDetails| {
        [&bridge, &iface].into_iter().flatten().any(|name| *name == it.link.name)
    };
    // A tunnel has no hardware address and needs no ARP, as ipvlan does not.
    let needs_arp = |it: &&LinkDetails| it.mac.is_some() && !it.is_kind("ipvlan");
    let off = facts.links.iter().filter(is_asked).filter(needs_arp).filter(|it| it.is_without_arp);
    let finding = |it: &LinkDetails| {
        let name = &it.link.name;
        let text = format!("ARP is switched off on {name}: it finds no host there");
        Finding::fail("arp", text, format!("ip link set {name} arp on"))
    };
    off.map(finding).collect()
}

/// Queues that delay or lose packets, and filters that may drop them.
pub(super) fn traffic_control(facts: &Facts) -> Vec<Finding> {
    let findings = facts.traffic_control.iter().filter_map(|it| {
        let link = facts.links.iter().find(|link| link.link.index == it.link)?;
        let is_port = link.master.is_some();
        at_link(it, &link.link.name, is_port, &facts.own_programs)
    });
    findings.take(MAX_SHOWN).collect()
}

fn at_link(
    it: &TrafficControl,
    name: &str,
    is_port: bool,
    own_programs: &[u32],
) -> Option<Finding> {
    let kind = &it.kind;
    let (text, advice) = match it.hook {
        TrafficHook::Queue => {
            let harm = match kind.as_str() {
                "netem" => "delays or loses packets that leave by it",
                "plug" => "may hold back all packets that leave by it",
                // CNI's bandwidth plugin limits single containers.
                "tbf" if !is_port => "limits the rate of packets that leave by it",
                _ => return None,
            };
            let text = format!("a queue of kind {kind} at {name} {harm}");
            (text, format!("tc -s qdisc show dev {name}; tc qdisc del dev {name} root"))
        }
        TrafficHook::Ingress | TrafficHook::Egress => {
            let is_ours = it.program.is_some_and(|id| own_programs.contains(&id));
            if is_ours || it.is_redirect {
                return None;
            }
            let (side, verb) = match it.hook {
                TrafficHook::Ingress => ("ingress", "come in"),
                TrafficHook::Egress | TrafficHook::Queue => ("egress", "leave"),
            };
            let text = format!(
                "a filter of kind {kind} at {name}, which is not flanneld's, may drop packets that {verb}"
            );
            let advice =
                format!("tc -s filter show dev {name} {side}; tc filter del dev {name} {side}");
            (text, advice)
        }
    };
    Some(Finding::warn("tc", text, advice))
}

/// A program of somebody else that gets packets before the kernel, while a peer is not reached.
pub(super) fn xdp(facts: &Facts) -> Vec<Finding> {
    let is_lost = facts.peers.iter().any(|peer| !peer.verdict.ok);
    let Some(iface) = facts.iface.as_ref().filter(|_| is_lost) else { return Vec::new() };
    let link = facts.links.iter().find(|it| it.link.name == iface.name);
    let program = link.and_then(|it| it.xdp_program);
    let Some(id) = program.filter(|id| !facts.own_programs.contains(id)) else { return Vec::new() };
    let name = &iface.name;
    let text = format!(
        "XDP program {id} at {name}, which is not flanneld's, gets all packets first and may drop them"
    );
    let advice = format!("bpftool prog show id {id}; ip link set {name} xdp off");
    vec![Finding::warn("xdp", text, advice)]
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;
    use crate::control::host::net::Mac;

    fn control(link: u32, kind: &str, hook: TrafficHook) -> TrafficControl {
        TrafficControl { link, kind: kind.to_owned(), hook, program: None, is_redirect: false }
    }

    #[test]
    fn healthy_host_has_no_fault() {
        for check in [arp, traffic_control, xdp] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn links_without_arp_fail_unless_they_are_tunnels() {
        let mut facts = facts();
        facts.links[1].is_without_arp = true;
        assert_eq!(levels(&arp(&facts)), (0, 0));
        facts.links[1].mac = Some(Mac([2, 0, 0, 0, 0, 1]));
        let found = only(arp(&facts));
        assert_eq!(found.text, "ARP is switched off on eth0: it finds no host there");
    }

    #[test]
    fn queues_and_filters_of_others_warn() {
        let mut facts = facts();
        facts.traffic_control = vec![control(2, "netem", TrafficHook::Queue)];
        let found = only(traffic_control(&facts));
        assert_eq!(
            found.text,
            "a queue of kind netem at eth0 delays or loses packets that leave by it"
        );
        facts.traffic_control = vec![
            control(5, "tbf", TrafficHook::Queue),
            control(2, "fq_codel", TrafficHook::Queue),
            TrafficControl { is_redirect: true, ..control(5, "matchall", TrafficHook::Ingress) },
            TrafficControl { program: Some(9), ..control(4, "bpf", TrafficHook::Egress) },
        ];
        facts.own_programs = vec![9];
        assert_eq!(traffic_control(&facts), []);
        facts.own_programs.clear();
        let found = only(traffic_control(&facts));
        assert!(found.text.starts_with("a filter of kind bpf at flannel0, which is not"));
        let advice = "tc -s filter show dev flannel0 egress; tc filter del dev flannel0 egress";
        assert_eq!(found.advice.as_deref(), Some(advice));
    }

    #[test]
    fn program_of_somebody_else_warns_once_a_peer_is_lost() {
        let mut facts = facts();
        facts.links[1].xdp_program = Some(77);
        assert_eq!(xdp(&facts), []);
        facts.peers[0].verdict.ok = false;
        assert!(only(xdp(&facts)).text.starts_with("XDP program 77 at eth0"));
        facts.own_programs = vec![77];
        assert_eq!(xdp(&facts), []);
    }
}
