//! Rules as `nft -j list ruleset` prints them: libnftables-json(5).

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde_json::Value;

use super::words::is_link;
use super::{End, Fit, MAX_DEPTH, Packet, Verdict, Way};
use crate::routes::Prefix;

/// The hooks that a packet passes.
const fn hooks(way: Way) -> &'static [&'static str] {
    match way {
        Way::Forward | Way::BridgeForward => &["prerouting", "forward", "postrouting"],
        Way::Input | Way::BridgeInput => &["prerouting", "input"],
        Way::Output | Way::BridgeOutput => &["output", "postrouting"],
    }
}

/// What the ruleset in `json` does with `packet`. Tables that iptables made are left out: what is in
/// them is read from `iptables-save`.
pub(super) fn verdict(json: &str, packet: &Packet) -> Verdict {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let items = ruleset["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let chains = items.iter().filter_map(|item| item.get("chain"));
    let base = chains.filter(|chain| is_passed(chain, packet) && !is_of_iptables(chain));
    let mut is_unsure = false;
    for chain in base {
        let (family, table, name) = place(chain);
        let mut walk = Walk { items, family, table, packet, may_accept: false };
        let end = match walk.chain(name, 0) {
            End::Returned if chain["policy"] == "drop" => End::Dropped("policy drop".to_owned()),
            end @ (End::Accepted | End::Dropped(_) | End::Returned) => end,
        };
        let is_device_unknown = family == "netdev" && chain["dev"].is_null();
        if let End::Dropped(rule) = end
            && !walk.may_accept
        {
            // nft before 1.0.8 does not print which device it is: perhaps none that the packet passes.
            if is_device_unknown {
                is_unsure = true;
                continue;
            }
            let by = format!("{rule} (chain {name} of table {family} {table})");
            let shown_by = format!("nft -a list table {family} {table}");
            let insert = format!("nft insert rule {family} {table} {name}");
            return Verdict::Dropped { by, shown_by, insert };
        }
        is_unsure |= walk.may_accept;
    }
    if is_unsure { Verdict::Unsure } else { Verdict::Accepted }
}

/// Whether `chain` is called for `packet`. Chains for NAT drop nothing.
fn is_passed(chain: &Value, packet: &Packet) -> bool {
    let hook = chain["hook"].as_str().unwrap_or_default();
    let is_bridged =
        matches!(packet.way, Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward);
    let has_hook = chain["type"] != "nat" && hooks(packet.way).contains(&hook);
    match chain["family"].as_str() {
        Some("bridge") => is_bridged && has_hook,
        Some("ip") => !is_bridged && has_hook,
        Some(family @ ("inet" | "netdev")) => {
            let is_at_link = is_at_link(chain, hook, packet);
            is_at_link || (family == "inet" && !is_bridged && has_hook)
        }
        Some(_) | None => false,
    }
}

/// Whether `chain` sees all packets of a link that `packet` passes.
fn is_at_link(chain: &Value, hook: &str, packet: &Packet) -> bool {
    let link = match hook {
        "ingress" => &packet.in_link,
        "egress" => &packet.out_link,
        _ => return false,
    };
    let Some(link) = link.as_deref() else { return false };
    let devices = &chain["dev"];
    devices.is_null()
        || devices == link
        || devices.as_array().is_some_and(|all| all.iter().any(|it| it == link))
}

fn is_of_iptables(chain: &Value) -> bool {
    const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
    let (family, table, name) = place(chain);
    family == "ip" && TABLES.contains(&table) && name.bytes().all(|b| b.is_ascii_uppercase())
}

/// Family, table and name of a chain.
fn place(chain: &Value) -> (&str, &str, &str) {
    let text = |key: &str| chain[key].as_str().unwrap_or_default();
    (text("family"), text("table"), text("name"))
}

struct Walk<'a> {
    items: &'a [Value],
    family: &'a str,
    table: &'a str,
    packet: &'a Packet,
    /// Whether a rule that may or may not match accepts.
    may_accept: bool,
}

/// What a rule does once it matches.
enum Action<'a> {
    End(End),
    Jump(&'a str),
    Goto(&'a str),
}

impl<'a> Walk<'a> {
    fn chain(&mut self, name: &str, depth: usize) -> End {
        let rules = self.items.iter().filter_map(|item| item.get("rule"));
        let rules = rules.filter(|rule| {
            rule["family"] == self.family && rule["table"] == self.table && rule["chain"] == name
        });
        for rule in rules.collect::<Vec<_>>() {
            let (fit, action) = self.rule(rule);
            let (end, is_goto) = match action {
                _ if fit == Fit::No || depth > MAX_DEPTH => continue,
                None => continue,
                Some(Action::End(End::Returned)) if fit == Fit::Yes => return End::Returned,
                Some(Action::End(end)) => (end, false),
                Some(Action::Jump(target)) => (self.chain(target, depth + 1), false),
                Some(Action::Goto(target)) => (self.chain(target, depth + 1), true),
            };
            match (end, fit) {
                (End::Returned, Fit::Yes) if is_goto => return End::Returned,
                (End::Returned, _) => {}
                (end, Fit::Yes) => return end,
                (End::Accepted, _) => self.may_accept = true,
                (End::Dropped(_), _) => {}
            }
        }
        End::Returned
    }

    /// Whether a rule matches, and what it does then.
    fn rule(&mut self, rule: &'a Value) -> (Fit, Option<Action<'a>>) {
        let mut fit = Fit::Yes;
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((name, body)) = statement.as_object().and_then(|it| it.iter().next()) else {
                continue;
            };
            match name.as_str() {
                "match" => fit = fit.and(matches(body, self.packet)),
                "vmap" => match self.mapped(rule, body) {
                    (Fit::No, _) => {}
                    (mapped, action) => return (fit.and(mapped), action),
                },
                "limit" | "quota" | "xt" | "ct count" => fit = fit.and(Fit::Unknown),
                _ => {
                    if let Some(action) = action(rule, name, body) {
                        return (fit, Some(action));
                    }
                }
            }
        }
        (fit, None)
    }

    /// What a map of verdicts does with the packet. A map in a set of its own may do anything.
    fn mapped(&mut self, rule: &'a Value, map: &'a Value) -> (Fit, Option<Action<'a>>) {
        let Some(elements) = map["data"]["set"].as_array() else {
            self.may_accept = true;
            return (Fit::No, None);
        };
        for element in elements {
            match of_packet(&map["key"], &element[0], self.packet) {
                Fit::Yes => {
                    let verdict = element[1].as_object().and_then(|it| it.iter().next());
                    let action = verdict.and_then(|(name, body)| action(rule, name, body));
                    return (Fit::Yes, action);
                }
                Fit::Unknown => self.may_accept = true,
                Fit::No => {}
            }
        }
        (Fit::No, None)
    }
}

/// A statement that decides; `None` for one that only counts, logs or marks.
fn action<'a>(rule: &Value, name: &str, body: &'a Value) -> Option<Action<'a>> {
    let target = body["target"].as_str().unwrap_or_default();
    Some(match name {
        "accept" | "queue" => Action::End(End::Accepted),
        "drop" | "reject" => Action::End(End::Dropped(describe(rule, name))),
        "return" => Action::End(End::Returned),
        "jump" => Action::Jump(target),
        "goto" => Action::Goto(target),
        _ => return None,
    })
}

fn describe(rule: &Value, verdict: &str) -> String {
    let comment = rule["comment"].as_str();
    let comment = comment.map_or(String::new(), |comment| format!(" {comment:?}"));
    let chain = rule["chain"].as_str().unwrap_or_default();
    format!("{verdict} rule{comment} with handle {} in chain {chain}", rule["handle"])
}

fn matches(body: &Value, packet: &Packet) -> Fit {
    let negated = body["op"] == "!=";
    match body["op"].as_str() {
        Some("==" | "!=" | "in") => {
            of_packet(&body["left"], &body["right"], packet).negated_if(negated)
        }
        Some(_) | None => Fit::Unknown,
    }
}

/// Whether what `left` reads from the packet is `right`, or one of it.
fn of_packet(left: &Value, right: &Value, packet: &Packet) -> Fit {
    if let Some(set) = right["set"].as_array().or(right.as_array()) {
        let fits = set.iter().map(|element| of_packet(left, unwrapped(element), packet));
        return fits.fold(Fit::No, Fit::or);
    }
    let key = |name: &str| left[name]["key"].as_str();
    if let Some(key) = key("meta") {
        return of_meta(key, right, packet);
    }
    if key("ct") == Some("state") {
        return Fit::of(right == "new");
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip"), Some("saddr")) => is_in(right, packet.src),
        (Some("ip"), Some("daddr")) => is_in(right, packet.dst),
        (Some("ip"), Some("protocol")) => is_protocol(right, packet),
        (Some("ip6"), Some(_)) => Fit::No,
        (Some("ether"), Some("type")) => Fit::of(right == "ip"),
        (Some(protocol @ ("tcp" | "udp" | "th")), Some(field)) => {
            let is_other = (protocol == "tcp" && packet.protocol != 6)
                || (protocol == "udp" && packet.protocol != 17);
            match (is_other, field) {
                (true, _) => Fit::No,
                (false, "dport") => {
                    packet.dst_port.map_or(Fit::Unknown, |port| is_port(right, port))
                }
                (false, "sport") => {
                    packet.src_port.map_or(Fit::Unknown, |port| is_port(right, port))
                }
                (false, _) => Fit::Unknown,
            }
        }
        (Some("icmp"), Some(_)) if packet.protocol != 1 => Fit::No,
        (Some(_) | None, _) => Fit::Unknown,
    }
}

fn of_meta(key: &str, right: &Value, packet: &Packet) -> Fit {
    let link = |name: &Option<String>| match (name, right.as_str()) {
        (Some(name), Some(pattern)) => Fit::of(is_link(pattern, '*', name)),
        (_, _) => Fit::Unknown,
    };
    match key {
        "iifname" | "iif" => link(&packet.in_link),
        "oifname" | "oif" => link(&packet.out_link),
        "l4proto" => is_protocol(right, packet),
        "nfproto" => Fit::of(right == "ipv4"),
        "protocol" => Fit::of(right == "ip"),
        _ => Fit::Unknown,
    }
}

/// An element of a set may have a comment or a timeout.
fn unwrapped(element: &Value) -> &Value {
    element.get("elem").and_then(|elem| elem.get("val")).unwrap_or(element)
}

fn is_in(right: &Value, addr: Ipv4Addr) -> Fit {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<Ipv4Addr>().ok());
    if let Some(only) = parse(right) {
        return Fit::of(only == addr);
    }
    let prefix = &right["prefix"];
    if let (Some(first), Some(len)) = (parse(&prefix["addr"]), prefix["len"].as_u64()) {
        let range = u8::try_from(len).ok().and_then(|len| Ipv4Network::containing(first, len).ok());
        return range.map_or(Fit::Unknown, |range| Fit::of(range.contains(addr)));
    }
    match (parse(&right["range"][0]), parse(&right["range"][1])) {
        (Some(first), Some(last)) => Fit::of((first..=last).contains(&addr)),
        (_, _) => Fit::Unknown,
    }
}

fn is_port(right: &Value, port: u16) -> Fit {
    let port = u64::from(port);
    let range = &right["range"];
    match (right.as_u64(), range[0].as_u64(), range[1].as_u64()) {
        (Some(only), _, _) => Fit::of(only == port),
        (None, Some(first), Some(last)) => Fit::of((first..=last).contains(&port)),
        (None, _, _) => Fit::Unknown,
    }
}

fn is_protocol(right: &Value, packet: &Packet) -> Fit {
    let number = match right.as_str() {
        Some("icmp") => Some(1),
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some(_) => None,
        None => right.as_u64(),
    };
    let known = number.map(|number| Fit::of(number == u64::from(packet.protocol)));
    // Any other protocol's name.
    known.unwrap_or(if right.is_string() { Fit::No } else { Fit::Unknown })
}
