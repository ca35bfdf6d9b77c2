//! Rules that change addresses of packets, and those that may drop some.

use std::net::Ipv4Addr;

use super::super::facts::{Facts, PeerFact};
use super::super::finding::Finding;
use super::packets;
use crate::control::host::firewall::trace::{Packet, Rewrite, Rewritten, Verdict, Way};

/// Rules of NAT that packets of the overlay match.
pub(super) fn nat(facts: &Facts) -> Vec<Finding> {
    let outer = packets::outer(facts, packets::peers(facts)[0]);
    let mut outer = outer.into_iter().flatten();
    let outer = outer.find_map(|packet| of_outer(facts, &packet, &facts.rules.rewrite(&packet)?));
    let inner = facts.overlay().map(|overlay| {
        let container = packets::containers(facts, &overlay).first().copied();
        let first = Ipv4Addr::from_bits(overlay.subnet.network().to_bits() + 2);
        let peer = packets::a_peers_container(facts, &overlay);
        packets::inner(facts, &overlay, container.unwrap_or(first), peer)
    });
    let mut inner = inner.into_iter().flatten();
    let inner = inner.find_map(|packet| of_inner(facts, &packet, &facts.rules.rewrite(&packet)?));
    outer.into_iter().chain(inner).collect()
}

fn of_outer(facts: &Facts, packet: &Packet, rewrite: &Rewrite) -> Option<Finding> {
    let Rewrite { by, shown_by, what } = rewrite;
    let own = facts.own.as_ref()?;
    let port = packet.dst_port?;
    let advice = format!("{shown_by}; remove it, or keep UDP {port} out of it");
    match (what, packet.way) {
        (Rewritten::Destination, Way::Input) => {
            let text = format!("{by} sends datagrams to UDP {port} of this host elsewhere");
            Some(Finding::fail("nat", text, advice))
        }
        (Rewritten::Destination, _) => {
            let text = format!("{by} sends datagrams to UDP {port} of peers elsewhere");
            Some(Finding::fail("nat", text, advice))
        }
        (Rewritten::Source(addr), Way::Output) if *addr != own.addr && *addr != own.public_ip => {
            let text =
                format!("{by} gives datagrams to peers the source {addr}, which no lease has");
            Some(Finding::warn("nat", text, advice))
        }
        (Rewritten::Source(_) | Rewritten::Masquerade, _) => None,
    }
}

fn of_inner(facts: &Facts, packet: &Packet, rewrite: &Rewrite) -> Option<Finding> {
    let Rewrite { by, shown_by, what } = rewrite;
    let network = facts.own.as_ref()?.network;
    let advice = format!(
        "{shown_by}; put a rule before it: -s {network} -d {network} -j RETURN; or flanneld --ip-masq, \
         and for docker --ip-masq=false"
    );
    let is_here = |addr: Ipv4Addr| facts.links.iter().any(|it| it.has(addr));
    let (src, dst) = (packet.src, packet.dst);
    Some(match what {
        Rewritten::Destination => {
            let text = format!("{by} sends packets from {src} to {dst} elsewhere");
            Finding::fail(
                "nat",
                text,
                format!("{shown_by}; remove it, or keep {network} out of it"),
            )
        }
        Rewritten::Source(addr) if !is_here(*addr) => {
            let text = format!(
                "{by} gives packets from {src} to {dst} the source {addr}, which this host does not \
                 have: answers do not come back"
            );
            Finding::fail("nat", text, advice)
        }
        Rewritten::Source(_) | Rewritten::Masquerade => {
            let text = format!(
                "{by} hides the sources of packets between containers: {dst} sees this host's address \
                 and not {src}"
            );
            Finding::warn("nat", text, advice)
        }
    })
}

/// Rules that drop some packets, by what is not known here: those that do so at random, and the others
/// while something is lost.
pub(super) fn may_drop(facts: &Facts) -> Vec<Finding> {
    let is_lost = |it: &&PeerFact| !it.verdict.ok || it.verdict.doubt.is_some();
    let bad = facts.peers.iter().find(is_lost).map(|it| it.public_ip);
    let peer = bad.unwrap_or_else(|| packets::peers(facts)[0]);
    let outer = packets::outer(facts, peer).into_iter().flatten();
    let inner = facts.overlay().map(|overlay| {
        let container = Ipv4Addr::from_bits(overlay.subnet.network().to_bits() + 2);
        packets::inner(facts, &overlay, container, packets::a_peers_container(facts, &overlay))
    });
    let outer = outer.map(|it| (it, "datagrams between the nodes"));
    let inner = inner.into_iter().flatten().map(|it| (it, "packets of containers"));
    let mut found = Vec::<Finding>::new();
    for (packet, what) in outer.chain(inner) {
        let Verdict::Unsure { by, shown_by } = facts.rules.verdict(&packet) else { continue };
        let is_random = by.contains("-m statistic") || by.contains("(random)");
        let text = if is_random {
            format!("{by} drops some {what}, at random")
        } else if bad.is_some() {
            format!("{by} may drop {what}: that depends on more than doctor can see")
        } else {
            continue;
        };
        let finding =
            Finding::warn("some packets", text, format!("{shown_by}; does its counter rise?"));
        if !found.contains(&finding) {
            found.push(finding);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;

    fn with_rules(table: &str, rules: &str) -> Facts {
        let chains = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];
        let chains: String = chains.iter().map(|it| format!(":{it} ACCEPT [0:0]\n")).collect();
        let mut facts = facts();
        let text = format!("*{table}\n{chains}{rules}\nCOMMIT\n");
        facts.rules.saved = vec![("iptables".to_owned(), text)];
        facts
    }

    fn with_nat(rules: &str) -> Facts {
        with_rules("nat", rules)
    }

    #[test]
    fn host_that_masquerades_what_leaves_the_overlay_is_well() {
        assert_eq!(nat(&facts()), []);
        let rules = "-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN\n\
                     -A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE\n\
                     -A POSTROUTING -o eth0 -j MASQUERADE";
        assert_eq!(nat(&with_nat(rules)), []);
    }

    #[test]
    fn hidden_sources_warn_and_wrong_ones_fail() {
        let found = nat(&with_nat("-A POSTROUTING -s 10.5.7.0/24 ! -o docker0 -j MASQUERADE"));
        assert_eq!(levels(&found), (1, 0));
        assert!(only(found).text.ends_with("10.5.9.2 sees this host's address and not 10.5.7.2"));
        let found = nat(&with_nat("-A POSTROUTING -o flannel0 -j SNAT --to-source 198.51.100.7"));
        assert!(only(found).text.ends_with("answers do not come back"));
    }

    #[test]
    fn destinations_that_change_fail() {
        let rule = "-A PREROUTING -p udp -m udp --dport 8285 -j REDIRECT --to-ports 9";
        let found = only(nat(&with_nat(rule)));
        assert!(found.text.ends_with("sends datagrams to UDP 8285 of this host elsewhere"));
        let rule = "-A OUTPUT -d 192.0.2.9/32 -j DNAT --to-destination 192.0.2.8";
        let found = only(nat(&with_nat(rule)));
        assert!(found.text.ends_with("sends datagrams to UDP 8285 of peers elsewhere"));
        let rule = "-A PREROUTING -d 10.5.9.0/24 -j DNAT --to-destination 10.5.9.77";
        let found = only(nat(&with_nat(rule)));
        assert!(found.text.ends_with("sends packets from 10.5.7.2 to 10.5.9.2 elsewhere"));
    }

    #[test]
    fn rules_that_drop_some_packets_warn_once_a_peer_is_lost() {
        let rule = "-A INPUT -p udp -m set --match-set banned src -j DROP";
        let mut facts = with_rules("filter", rule);
        assert_eq!(may_drop(&facts), []);
        facts.peers[0].verdict.ok = false;
        let found = only(may_drop(&facts));
        assert!(found.text.starts_with(&format!("rule {rule} (table filter) may drop datagrams")));
        let rule = "-A FORWARD -m statistic --mode random --probability 0.5 -j DROP";
        let found = only(may_drop(&with_rules("filter", rule)));
        assert!(found.text.ends_with("(table filter) drops some packets of containers, at random"));
    }
}
