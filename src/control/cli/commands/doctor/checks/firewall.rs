//! Rules that drop packets of the overlay.

use std::net::Ipv4Addr;

use super::super::facts::Facts;
use super::super::finding::Finding;
use super::packets;
use crate::control::cli::commands::survey::Own;
use crate::control::host::findings::{
    Harm, OverlayFacts, Problem, bridge_problem, dropped_bridged, dropped_forward,
};
use crate::control::host::firewall::trace::{Packet, Verdict, Way, accepting};
use crate::control::host::net::LinkDetails;

/// IANA's protocol number.
const ICMP: u8 = 1;

pub(super) fn forward_rules(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "forward rules";
    let unread = facts.rules.unread.iter().map(|reason| {
        Finding::warn(NAME, format!("rules could not be read: {reason}"), "run it as root")
    });
    let mut found: Vec<Finding> = unread.collect();
    let Some(overlay) = facts.overlay() else { return found };
    let bridge = bridge_problem(&facts.links, &overlay).0;
    let peer = packets::a_peers_container(facts, &overlay);
    let of_all = dropped_forward(&facts.rules, &overlay, bridge.as_deref(), peer);
    let of_one = || {
        let mut containers = packets::containers(facts, &overlay).into_iter();
        containers.find_map(|it| dropped_container(facts, &overlay, it, peer))
    };
    match of_all.or_else(of_one) {
        Some(problem) => found.push(Finding::fail(NAME, problem.text, problem.advice)),
        None => found.extend(bridge.and_then(|bridge| bridged(facts, &overlay, &bridge))),
    }
    if found.is_empty() {
        found.push(Finding::ok(NAME, "packets of containers pass, out and in"));
    }
    found
}

/// A rule about one container, as Docker makes them.
fn dropped_container(
    facts: &Facts,
    overlay: &OverlayFacts,
    container: Ipv4Addr,
    peer: Ipv4Addr,
) -> Option<Problem> {
    let ways = packets::inner(facts, overlay, container, peer).into_iter().zip(["from", "to"]);
    ways.into_iter().find_map(|(packet, direction)| {
        let Verdict::Dropped { by, shown_by, insert } = facts.rules.verdict(&packet) else {
            return None;
        };
        let text = format!("{by} drops packets {direction} container {container} of this host");
        let network = overlay.network;
        let (of_iptables, of_nft) = match direction {
            "from" => (
                format!("-s {container} -d {network}"),
                format!("ip saddr {container} ip daddr {network}"),
            ),
            _ => (
                format!("-s {network} -d {container}"),
                format!("ip saddr {network} ip daddr {container}"),
            ),
        };
        let pass = accepting(&insert, &of_iptables, &of_nft);
        Some(Problem { text, advice: format!("{shown_by}; {pass}"), harm: Harm::Loss })
    })
}

/// Rules about what is between the bridge and its ports.
fn bridged(facts: &Facts, overlay: &OverlayFacts, bridge: &str) -> Option<Finding> {
    let filters_bridged = facts.sysctl("net.bridge.bridge-nf-call-iptables") == Some("1");
    let problem = dropped_bridged(&facts.rules, overlay, bridge, filters_bridged)?;
    let Problem { text, advice, harm } = problem;
    Some(match harm {
        Harm::OnThisHost => Finding::warn("bridge rules", text, advice),
        Harm::Loss | Harm::LongPackets | Harm::NoneYet => {
            Finding::fail("bridge rules", text, advice)
        }
    })
}

/// Rules about the datagrams between the nodes.
pub(super) fn outer_rules(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "port rules";
    let Some(own) = &facts.own else { return Vec::new() };
    let Some(port) = own.wire.port().filter(|_| facts.iface.is_some()) else { return Vec::new() };
    let peers = packets::peers(facts);
    let is_for_all = |packet: &Packet| [packet.src, packet.dst].contains(&peers[0]);
    let ways = peers.iter().filter_map(|peer| packets::outer(facts, *peer)).flatten();
    let dropped = ways.into_iter().find_map(|packet| {
        let Verdict::Dropped { by, shown_by, insert } = facts.rules.verdict(&packet) else {
            return None;
        };
        let is_ours = packet.way == Way::Output;
        let all = |word| {
            if is_for_all(&packet) { format!(" as {word} all peers") } else { String::new() }
        };
        let what = if is_ours {
            format!("this host's own datagrams to UDP {port}, to {}{}", packet.dst, all("to"))
        } else {
            format!("datagrams to UDP {port} of this host, from {}{}", packet.src, all("from"))
        };
        let but = fast_path(facts);
        let text = format!("{by} drops {what}{but}");
        let pass =
            accepting(&insert, &format!("-p udp --dport {port}"), &format!("udp dport {port}"));
        Some(Finding::fail(NAME, text, format!("{shown_by}; {pass}")))
    });
    let passes = || Finding::ok(NAME, format!("UDP {port} passes, out and in"));
    let mut found = vec![dropped.unwrap_or_else(passes)];
    found.extend(to_host(facts, own));
    found
}

/// What passes in spite of a rule about the port. The fast path takes packets before INPUT and sends
/// them after OUTPUT; where it carries bulk TCP it has a device of its own, or XDP.
fn fast_path(facts: &Facts) -> &'static str {
    let is_ours = |program: Option<u32>| program.is_some_and(|id| facts.own_programs.contains(&id));
    let carries_bulk =
        |link: &LinkDetails| link.link.name.ends_with(".gpe") || is_ours(link.xdp_program);
    if facts.links.iter().any(carries_bulk) {
        "; the fast path passes it by: only bulk UDP of pods is lost"
    } else if !facts.own_programs.is_empty() {
        "; the fast path passes it by: only bulk TCP and UDP of pods is lost"
    } else {
        ""
    }
}

/// Rules about what pods and peers send to this host itself.
fn to_host(facts: &Facts, own: &Own) -> Option<Finding> {
    let overlay = facts.overlay()?;
    let packet = Packet {
        way: Way::Input,
        src: overlay.a_peer(),
        dst: own.overlay_addr()?,
        in_link: Some(overlay.device),
        out_link: None,
        protocol: ICMP,
        src_port: None,
        dst_port: None,
    };
    let Verdict::Dropped { by, shown_by, insert } = facts.rules.verdict(&packet) else {
        return None;
    };
    let text = format!("{by} drops what pods and peers send to this host itself; pods do not mind");
    let network = own.network;
    let pass = accepting(&insert, &format!("-s {network}"), &format!("ip saddr {network}"));
    let advice = format!("{shown_by}; {pass}");
    Some(Finding::warn("host rules", text, advice))
}

/// Programs that write rules of their own again and again.
pub(super) fn managers(facts: &Facts) -> Vec<Finding> {
    let port = facts.own.as_ref().and_then(|own| own.wire.port()).unwrap_or(8285);
    let network = facts.own.as_ref().map_or("NETWORK".to_owned(), |own| own.network.to_string());
    let advice = |service: &str| match service {
        "firewalld" => Some(format!(
            "firewall-cmd --permanent --add-port={port}/udp; firewall-cmd --permanent \
             --zone=trusted --add-source={network}; firewall-cmd --reload"
        )),
        "ufw" => Some(format!(
            "ufw allow {port}/udp; ufw route allow from {network}; ufw route allow to {network}"
        )),
        _ => None,
    };
    let active = facts.services.iter().filter_map(|service| Some((service, advice(service)?)));
    let finding = |(service, advice): (&&str, String)| {
        let text =
            format!("{service} is active: it drops what it does not know, after each reload");
        Finding::warn("firewall", text, advice)
    };
    active.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;

    fn with_rules(rules: &str) -> Facts {
        let text = format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\n\
             COMMIT\n"
        );
        let mut facts = facts();
        facts.rules.saved = vec![("iptables".to_owned(), text)];
        facts
    }

    #[test]
    fn healthy_host_has_no_fault() {
        for check in [forward_rules, outer_rules, managers] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn drop_rules_fail_with_the_rule_and_the_command_that_shows_it() {
        let found = only(forward_rules(&with_rules("-A FORWARD -s 10.5.0.0/16 -j DROP")));
        assert!(found.text.starts_with("rule -A FORWARD -s 10.5.0.0/16 -j DROP"), "{found:?}");
        assert!(found.advice.unwrap().starts_with("iptables -t filter -L FORWARD -nv"));
        let found = only(outer_rules(&with_rules("-A INPUT -p udp -m udp --dport 8285 -j DROP")));
        assert!(found.text.contains("drops datagrams to UDP 8285 of this host, from 192.0.2.9"));
        let mut fast = with_rules("-A INPUT -p udp -m udp --dport 8285 -j DROP");
        fast.own_programs = vec![7];
        assert!(only(outer_rules(&fast)).text.ends_with("only bulk TCP and UDP of pods is lost"));
        fast.links[0].xdp_program = Some(7);
        assert!(only(outer_rules(&fast)).text.ends_with("by: only bulk UDP of pods is lost"));
        fast.links[0].xdp_program = None;
        fast.links[0].link.name = "flannel0.gpe".to_owned();
        assert!(only(outer_rules(&fast)).text.ends_with("by: only bulk UDP of pods is lost"));
        let found = only(outer_rules(&with_rules("-A OUTPUT -o eth0 -p udp -j REJECT")));
        assert!(found.text.contains("drops this host's own datagrams to UDP 8285"));
        let accept = "; iptables -t filter -I OUTPUT -p udp --dport 8285 -j ACCEPT";
        assert!(found.advice.unwrap().ends_with(accept), "in the chain that drops");
        let rule = "-A OUTPUT -p udp -m udp --sport 8285 -j REJECT";
        assert!(only(outer_rules(&with_rules(rule))).text.starts_with(&format!("rule {rule}")));
    }

    #[test]
    fn rule_about_one_container_or_one_peer_fails() {
        let mut facts = with_rules("-A FORWARD -d 10.5.7.5/32 ! -i docker0 -j DROP");
        assert_eq!(levels(&forward_rules(&facts)), (0, 0));
        facts.far_ends[0].addrs[0].addr = [10, 5, 7, 5].into();
        let found = only(forward_rules(&facts));
        assert!(found.text.ends_with("drops packets to container 10.5.7.5 of this host"));
        let accept = "iptables -t filter -I FORWARD -s 10.5.0.0/16 -d 10.5.7.5 -j ACCEPT";
        assert!(found.advice.unwrap().ends_with(accept));
        let mut facts = with_rules("-A INPUT -s 192.0.2.10/32 -j DROP");
        assert_eq!(levels(&outer_rules(&facts)), (0, 0));
        facts.peers[0].public_ip = [192, 0, 2, 10].into();
        facts.peers[0].verdict.ok = false;
        let found = only(outer_rules(&facts));
        assert!(found.text.ends_with("datagrams to UDP 8285 of this host, from 192.0.2.10"));
    }

    #[test]
    fn rule_of_nft_is_answered_in_its_own_chain() {
        let mut facts = facts();
        let chain = r#"{"chain":{"family":"inet","table":"fw","name":"in","type":"filter",
            "hook":"input","prio":0,"policy":"drop"}}"#;
        facts.rules.nft = Some(format!(r#"{{"nftables":[{chain}]}}"#));
        let advice = |it: &Finding| it.advice.clone().unwrap();
        let found = outer_rules(&facts);
        let (port, host) = (advice(&found[0]), advice(&found[1]));
        assert!(port.ends_with("; nft insert rule inet fw in udp dport 8285 accept"), "{port}");
        assert!(host.ends_with("; nft insert rule inet fw in ip saddr 10.5.0.0/16 accept"));
    }

    #[test]
    fn rules_about_the_host_itself_warn() {
        let found = only(outer_rules(&with_rules("-A INPUT -i flannel0 -j DROP")));
        assert_eq!(found.check, "host rules");
    }

    #[test]
    fn unread_rules_and_active_managers_warn() {
        let mut facts = facts();
        facts.rules.unread = vec!["iptables-save: Permission denied".to_owned()];
        facts.services = vec!["ufw", "docker"];
        assert_eq!(levels(&forward_rules(&facts)), (1, 0));
        let found = only(managers(&facts));
        assert!(found.advice.unwrap().starts_with("ufw allow 8285/udp; "));
    }
}
