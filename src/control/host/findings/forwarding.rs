//! Forwarding: the kernel's switches, and rules that drop.

use std::net::Ipv4Addr;

use super::{Harm, OverlayFacts, Problem};
use crate::control::host::firewall::trace::{Packet, Rules, Verdict, Way, accepting};

/// Protocols of the packets that are followed through the rules.
const PROTOCOLS: [(u8, &str); 3] = [(1, "ICMP"), (6, "TCP"), (17, "UDP")];

/// Why the kernel forwards no packets between `links`; `sysctl` gives the value of a setting.
pub fn no_forwarding(links: &[&str], sysctl: impl Fn(&str) -> Option<String>) -> Option<Problem> {
    let is_off = |name: &str| sysctl(name).is_some_and(|value| value == "0");
    const ALL: &str = "net.ipv4.ip_forward";
    if is_off(ALL) {
        let text = format!("{ALL} is 0: this host forwards no packets of containers");
        let advice = format!("sysctl -w {ALL}=1");
        return Some(Problem { text, advice, harm: Harm::Loss });
    }
    let name = |link: &&&str| format!("net.ipv4.conf.{}.forwarding", link.replace('.', "/"));
    let off = links.iter().find(|link| is_off(&name(link)))?;
    let text = format!("{} is 0: this host forwards nothing that comes in by {off}", name(&off));
    let advice = format!("sysctl -w {}=1", name(&off));
    Some(Problem { text, advice, harm: Harm::Loss })
}

/// The rule that drops packets between a container on `bridge` and the peer at `peer`.
pub fn dropped_forward(
    rules: &Rules,
    overlay: &OverlayFacts,
    bridge: Option<&str>,
    peer: Ipv4Addr,
) -> Option<Problem> {
    let container = Ipv4Addr::from_bits(overlay.subnet.network().to_bits() + 2);
    for (protocol, word) in PROTOCOLS {
        let bridge = bridge.map(str::to_owned);
        let device = Some(overlay.device.clone());
        let way = Way::Forward;
        let out = Packet {
            way,
            src: container,
            dst: peer,
            in_link: bridge.clone(),
            out_link: device.clone(),
            protocol,
            src_port: None,
            dst_port: None,
        };
        let back =
            Packet { src: peer, dst: container, in_link: device, out_link: bridge, ..out.clone() };
        for (packet, direction) in [(out, "from"), (back, "to")] {
            if let Verdict::Dropped { by, shown_by, insert } = rules.verdict(&packet) {
                let text = format!("{by} drops {word} {direction} the containers of this host");
                let (src, dst) = match direction {
                    "from" => (overlay.subnet, overlay.network),
                    _ => (overlay.network, overlay.subnet),
                };
                let pass = accepting(
                    &insert,
                    &format!("-s {src} -d {dst}"),
                    &format!("ip saddr {src} ip daddr {dst}"),
                );
                let advice = format!("{shown_by}; remove it, or {pass}");
                return Some(Problem { text, advice, harm: Harm::Loss });
            }
        }
    }
    None
}

/// The rule that drops what containers send to the bridge or to each other. `filters_bridged` says
/// whether the rules for routed packets are asked about those between two ports of a bridge, too.
pub fn dropped_bridged(
    rules: &Rules,
    overlay: &OverlayFacts,
    bridge: &str,
    filters_bridged: bool,
) -> Option<Problem> {
    let container = |number: u32| Ipv4Addr::from_bits(overlay.subnet.network().to_bits() + number);
    let (peer, bridge) = (overlay.a_peer(), Some(bridge.to_owned()));
    const OUT: &str = "what containers of this host send to other hosts";
    const BACK: &str = "what other hosts send to containers of this host";
    const AMONG: &str = "what containers of this host send to each other";
    let ways = [
        (Way::BridgeInput, container(2), peer, OUT),
        (Way::BridgeOutput, peer, container(2), BACK),
        (Way::BridgeForward, container(2), container(3), AMONG),
        (Way::Forward, container(2), container(3), AMONG),
    ];
    let asked = ways.into_iter().filter(|(way, ..)| *way != Way::Forward || filters_bridged);
    for (way, src, dst, what) in asked {
        // The names of a bridge's ports are not compared: each has its own.
        let link = || bridge.clone().filter(|_| way == Way::Forward);
        let (in_link, out_link) = (link(), link());
        let protocol = PROTOCOLS[0].0;
        let (src_port, dst_port) = (None, None);
        let packet = Packet { way, src, dst, in_link, out_link, protocol, src_port, dst_port };
        if let Verdict::Dropped { by, shown_by, .. } = rules.verdict(&packet) {
            let text = format!("{by} drops {what}");
            // As with dockerd's --icc=false.
            let (harm, unless) = if what == AMONG {
                (Harm::OnThisHost, "unless that is intended, ")
            } else {
                (Harm::Loss, "")
            };
            let advice = format!(
                "{shown_by}; {unless}remove it, or put a rule that accepts {} before it",
                overlay.network
            );
            return Some(Problem { text, advice, harm });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> OverlayFacts {
        let (network, subnet) = ("10.5.0.0/16".parse().unwrap(), "10.5.7.0/24".parse().unwrap());
        OverlayFacts { network, subnet, device: "flannel0".to_owned(), mtu: 1472 }
    }

    fn problem(rules: &str) -> Option<String> {
        let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{rules}\nCOMMIT\n");
        let rules = Rules { saved: vec![("iptables".to_owned(), text)], ..Rules::default() };
        let peer = Ipv4Addr::new(10, 5, 9, 2);
        Some(dropped_forward(&rules, &overlay(), Some("docker0"), peer)?.text)
    }

    #[test]
    fn switch_that_is_off_is_named() {
        let only = |off: &'static str| move |name: &str| (name == off).then(|| "0".to_owned());
        let links = ["docker0", "flannel.1"];
        assert_eq!(no_forwarding(&links, |_| Some("1".to_owned())), None);
        assert_eq!(no_forwarding(&links, |_| None), None);
        let all = no_forwarding(&links, only("net.ipv4.ip_forward")).unwrap();
        assert_eq!(all.advice, "sysctl -w net.ipv4.ip_forward=1");
        let one = no_forwarding(&links, only("net.ipv4.conf.flannel/1.forwarding")).unwrap();
        assert!(one.text.ends_with("comes in by flannel.1"), "{one:?}");
    }

    #[test]
    fn rule_that_drops_either_direction_is_named() {
        assert_eq!(problem(""), None);
        assert_eq!(problem("-A FORWARD -i eth0 -j DROP"), None);
        let out = problem("-A FORWARD -s 10.5.0.0/16 -j DROP").unwrap();
        assert!(out.starts_with("rule -A FORWARD -s 10.5.0.0/16 -j DROP"), "{out}");
        let back = problem("-A FORWARD -i flannel0 -p udp -j REJECT").unwrap();
        assert!(back.ends_with("drops UDP to the containers of this host"), "{back}");
    }

    #[test]
    fn rule_about_bridged_packets_is_named() {
        let chain = r#"{"chain":{"family":"bridge","table":"filter","name":"INPUT","type":"filter",
            "hook":"input","policy":"drop"}}"#;
        let nft = Some(format!(r#"{{"nftables":[{chain}]}}"#));
        let found = |rules: &Rules, filters_bridged| {
            Some(dropped_bridged(rules, &overlay(), "docker0", filters_bridged)?.text)
        };
        let text = found(&Rules { nft, ..Rules::default() }, false).unwrap();
        assert!(text.ends_with("drops what containers of this host send to other hosts"), "{text}");
        let text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -o flannel0 -j ACCEPT\nCOMMIT\n";
        let saved = vec![("iptables".to_owned(), text.to_owned())];
        let rules = Rules { saved, ..Rules::default() };
        assert_eq!(found(&rules, false), None);
        assert!(found(&rules, true).unwrap().ends_with("of this host send to each other"));
    }
}
