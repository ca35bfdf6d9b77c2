//! Rules as `iptables-save` prints them.

use ipnetwork::Ipv4Network;

use super::words::{is_link, words};
use super::{Doubts, End, Fit, MAX_DEPTH, Packet, Rewrite, Rewritten, Verdict, Way};
use crate::control::host::firewall::iptables::saved::SavedTable;

/// The built-in chains that a packet passes, in order, by table.
const fn chains(way: Way) -> &'static [(&'static str, &'static str)] {
    match way {
        Way::Forward => &[
            ("raw", "PREROUTING"),
            ("mangle", "PREROUTING"),
            ("mangle", "FORWARD"),
            ("filter", "FORWARD"),
            ("mangle", "POSTROUTING"),
        ],
        Way::Input => &[
            ("raw", "PREROUTING"),
            ("mangle", "PREROUTING"),
            ("mangle", "INPUT"),
            ("filter", "INPUT"),
        ],
        Way::Output => &[
            ("raw", "OUTPUT"),
            ("mangle", "OUTPUT"),
            ("filter", "OUTPUT"),
            ("mangle", "POSTROUTING"),
        ],
        Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward => &[],
    }
}

/// What the rules that `tool` saved as `text` do with `packet`.
pub(super) fn verdict(tool: &str, text: &str, packet: &Packet) -> Verdict {
    let tables = SavedTable::parse_all(text);
    let mut found = Verdict::Accepted;
    for (name, chain) in chains(packet.way) {
        let Some(table) = tables.iter().find(|table| table.name == *name) else { continue };
        let mut walk = Walk { table, packet, doubts: Doubts::default() };
        let end = match walk.chain(chain, 0) {
            End::Returned if table.policy(chain) == Some("DROP") => {
                End::Dropped(format!("policy DROP of chain {chain}"))
            }
            end @ (End::Accepted | End::Dropped(_) | End::Rewritten(..) | End::Returned) => end,
        };
        let shown_by = format!("{tool} -t {name} -L {chain} -nv --line-numbers");
        let Doubts { may_accept, mut may_drop } = walk.doubts;
        if let End::Dropped(rule) = end {
            if !may_accept {
                let by = format!("{rule} (table {name})");
                let insert = format!("{tool} -t {name} -I {chain}");
                return Verdict::Dropped { by, shown_by, insert };
            }
            may_drop.get_or_insert(rule);
        }
        if let Some(rule) = may_drop.filter(|_| found == Verdict::Accepted) {
            found = Verdict::Unsure { by: format!("{rule} (table {name})"), shown_by };
        }
    }
    found
}

/// The first rule that `tool` saved in `text` and that changes `packet`.
pub(super) fn rewrite(tool: &str, text: &str, packet: &Packet) -> Option<Rewrite> {
    let chains: &[&str] = match packet.way {
        Way::Forward => &["PREROUTING", "POSTROUTING"],
        Way::Input => &["PREROUTING", "INPUT"],
        Way::Output => &["OUTPUT", "POSTROUTING"],
        Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward => &[],
    };
    let tables = SavedTable::parse_all(text);
    let table = tables.iter().find(|table| table.name == "nat")?;
    chains.iter().find_map(|chain| {
        let mut walk = Walk { table, packet, doubts: Doubts::default() };
        let End::Rewritten(rule, what) = walk.chain(chain, 0) else { return None };
        let shown_by = format!("{tool} -t nat -L {chain} -nv --line-numbers");
        (!walk.doubts.may_accept).then(|| Rewrite {
            by: format!("{rule} (table nat)"),
            shown_by,
            what,
        })
    })
}

/// What the target of `rule` changes.
fn rewritten(target: &str, rule: &str) -> Rewritten {
    let words = words(rule);
    let source = words.iter().skip_while(|word| *word != "--to-source").nth(1);
    let source = source.and_then(|text| text.split([':', '-']).next()?.parse().ok());
    match (target, source) {
        ("SNAT", Some(source)) => Rewritten::Source(source),
        ("SNAT" | "MASQUERADE", _) => Rewritten::Masquerade,
        (_, _) => Rewritten::Destination,
    }
}

struct Walk<'a> {
    table: &'a SavedTable,
    packet: &'a Packet,
    doubts: Doubts,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> End {
        // What comes after a RETURN that may or may not match may not be reached.
        let mut reached = Fit::Yes;
        for text in self.table.rules(name) {
            let rule = Rule::parse(text, self.packet);
            let fit = rule.fit.and(reached);
            if fit == Fit::No {
                continue;
            }
            let end = match rule.target.as_deref() {
                Some("ACCEPT" | "NFQUEUE" | "QUEUE") => End::Accepted,
                Some("DROP" | "REJECT") => End::Dropped(format!("rule -A {name} {text}")),
                Some(target @ ("DNAT" | "REDIRECT" | "SNAT" | "MASQUERADE" | "NETMAP")) => {
                    End::Rewritten(format!("rule -A {name} {text}"), rewritten(target, text))
                }
                Some("RETURN") if fit == Fit::Yes => return End::Returned,
                Some("RETURN") => {
                    reached = Fit::Unknown;
                    continue;
                }
                Some(target) if depth < MAX_DEPTH && self.table.chains.contains_key(target) => {
                    self.chain(target, depth + 1)
                }
                Some(_) | None => continue,
            };
            match (end, fit) {
                (End::Returned, Fit::Yes) if rule.is_goto => return End::Returned,
                (End::Returned, _) if rule.is_goto => reached = Fit::Unknown,
                (End::Returned, _) => {}
                (end, Fit::Yes) => return end,
                (end, _) => self.doubts.take(end, text.contains("--mark ")),
            }
        }
        End::Returned
    }
}

/// One rule, compared with a packet.
struct Rule {
    fit: Fit,
    target: Option<String>,
    is_goto: bool,
}

impl Rule {
    fn parse(text: &str, packet: &Packet) -> Self {
        let words = words(text);
        let mut words = words.iter().map(String::as_str).peekable();
        let (mut fit, mut negated) = (Fit::Yes, false);
        while let Some(word) = words.next() {
            if word == "!" {
                negated = true;
                continue;
            }
            if matches!(word, "-j" | "-g") {
                let target = words.next().map(str::to_owned);
                return Self { fit, target, is_goto: word == "-g" };
            }
            let mut values = Vec::new();
            while let Some(value) = words.next_if(|next| !next.starts_with('-') && *next != "!") {
                values.push(value);
            }
            let value = values.first().copied().unwrap_or_default();
            fit = fit.and(fits(word, value, packet).negated_if(negated));
            negated = false;
        }
        Self { fit, target: None, is_goto: false }
    }
}

/// Whether the match `option` with `value` fits.
fn fits(option: &str, value: &str, packet: &Packet) -> Fit {
    const MODULES: [&str; 9] =
        ["comment", "conntrack", "state", "tcp", "udp", "icmp", "multiport", "mark", "addrtype"];
    let in_range = |addr| match value.parse::<Ipv4Network>() {
        Ok(range) => Fit::of(range.contains(addr)),
        Err(_) => Fit::Unknown,
    };
    match option {
        "-s" => in_range(packet.src),
        "-d" => in_range(packet.dst),
        "-i" => Fit::of_known(packet.in_link.as_deref(), |link| is_link(value, '+', link)),
        "-o" => Fit::of_known(packet.out_link.as_deref(), |link| is_link(value, '+', link)),
        "-p" => protocol(value)
            .map_or(Fit::Unknown, |number| Fit::of(number == 0 || number == packet.protocol)),
        "--dport" | "--dports" => {
            Fit::of_known(packet.dst_port, |port| value.split(',').any(|it| is_port(it, port)))
        }
        "--sport" | "--sports" => {
            Fit::of_known(packet.src_port, |port| value.split(',').any(|it| is_port(it, port)))
        }
        "--ports" => {
            let is_it = |port| value.split(',').any(|it| is_port(it, port));
            Fit::of_known(packet.src_port, is_it).or(Fit::of_known(packet.dst_port, is_it))
        }
        // The packet is the first of its connection.
        "--ctstate" | "--state" => Fit::of(value.split(',').any(|state| state == "NEW")),
        "--dst-type" if value == "LOCAL" => match packet.way {
            Way::Input => Fit::Yes,
            Way::Forward => Fit::No,
            Way::Output | Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward => Fit::Unknown,
        },
        "--comment" => Fit::Yes,
        "-m" if MODULES.contains(&value) => Fit::Yes,
        "-f" => Fit::No,
        _ => Fit::Unknown,
    }
}

/// Whether `text`, a port or `first:last`, is about `port`.
fn is_port(text: &str, port: u16) -> bool {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let first = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(u16::MAX);
    (first..=last).contains(&port)
}

fn protocol(name: &str) -> Option<u8> {
    match name {
        "all" => Some(0),
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        number => number.parse().ok(),
    }
}
