//! What the host's filter rules do with one packet: read the rules, change nothing.
//!
//! Only rules that certainly match count. A rule with a match that is not known here, such as one of
//! a rate, may or may not match: if it could drop the packet, or accept one that would be dropped
//! later, the answer is [`Verdict::Unsure`].

mod iptables;
mod nft;
mod words;

use std::fs;
use std::net::Ipv4Addr;

use super::command::{CommandError, run};

/// A packet that begins a connection.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Which way it takes through this host.
    pub way: Way,
    /// Its source.
    pub src: Ipv4Addr,
    /// Its destination.
    pub dst: Ipv4Addr,
    /// The link that it comes in by, if that is known and there is one.
    pub in_link: Option<String>,
    /// The link that it leaves by, if that is known and there is one.
    pub out_link: Option<String>,
    /// The protocol's number: 1 ICMP, 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Source port, if that matters.
    pub src_port: Option<u16>,
    /// Destination port, if that matters.
    pub dst_port: Option<u16>,
}

/// The way of a packet through the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From one link to another.
    Forward,
    /// To the host itself.
    Input,
    /// From the host itself.
    Output,
    /// From a port of a bridge to the bridge itself: only rules for Ethernet frames are asked.
    BridgeInput,
    /// From a bridge itself to one of its ports.
    BridgeOutput,
    /// From one port of a bridge to another.
    BridgeForward,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Accepted,
    /// It ends.
    Dropped {
        /// The rule or the policy, and where it is.
        by: String,
        /// The command that shows it.
        shown_by: String,
        /// The command that puts a rule before it; what the rule matches comes after.
        insert: String,
    },
    /// It may end: that depends on matches that are not known here.
    Unsure {
        /// The first rule that may drop it.
        by: String,
        /// The command that shows it.
        shown_by: String,
    },
}

/// A rule that changes an address or a port of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The rule, and where it is.
    pub by: String,
    /// The command that shows it.
    pub shown_by: String,
    /// What it changes.
    pub what: Rewritten,
}

/// What a rule changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewritten {
    /// Where the packet goes.
    Destination,
    /// Where it comes from: this address.
    Source(Ipv4Addr),
    /// Where it comes from: an address of this host, or one that is not known here.
    Masquerade,
}

/// The command for a rule that accepts before the one that drops: in the same chain, since a packet
/// that one chain accepts is still dropped by another. `insert` is that of [`Verdict::Dropped`].
pub fn accepting(insert: &str, of_iptables: &str, of_nft: &str) -> String {
    if insert.starts_with("nft ") {
        format!("{insert} {of_nft} accept")
    } else {
        format!("{insert} {of_iptables} -j ACCEPT")
    }
}

/// The host's rules, as its tools print them.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What each kind of `iptables-save` prints, with the name of the tool.
    pub saved: Vec<(String, String)>,
    /// What `nft -j list ruleset` prints.
    pub nft: Option<String>,
    /// Why some rules could not be read, a line each.
    pub unread: Vec<String>,
}

impl Rules {
    /// Reads the rules. Tools that are not installed have made none.
    pub async fn read() -> Self {
        let mut rules = Self::default();
        let printed = run("nft", &["-j", "list", "ruleset"], "").await;
        rules.nft = rules.take(printed);
        rules.add_devices().await;
        // The legacy tool would load its modules, so it is asked only if they are in use.
        let legacy = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
        let mut tools = vec!["iptables"];
        if !legacy.trim().is_empty() {
            tools.push("iptables-legacy");
        }
        if rules.nft.as_ref().is_some_and(|json| nft::has_tables_of_iptables(json)) {
            tools.push("iptables-nft");
        }
        for tool in tools {
            let printed = run(&format!("{tool}-save"), &[], "").await;
            if let Some(text) = rules.take(printed)
                && !rules.saved.iter().any(|(_, known)| same_rules(known, &text))
            {
                rules.saved.push((tool.to_owned(), text));
            }
        }
        rules
    }

    /// nft before 1.0.8 prints in JSON no devices of chains, but as text it does.
    async fn add_devices(&mut self) {
        let Some(json) = self.nft.as_mut().filter(|json| nft::is_without_devices(json)) else {
            return;
        };
        if let Ok(text) = run("nft", &["list", "ruleset"], "").await {
            *json = nft::with_devices(json, &text);
        }
    }

    fn take(&mut self, printed: Result<String, CommandError>) -> Option<String> {
        match printed {
            Ok(text) => Some(text),
            Err(error) if error.is_missing() => None,
            Err(error) => {
                self.unread.push(error.line());
                None
            }
        }
    }

    /// What becomes of `packet`. Every table and every tool's rules must let it pass.
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        let saved = self.saved.iter().map(|(tool, text)| iptables::verdict(tool, text, packet));
        let nft = self.nft.iter().map(|json| nft::verdict(json, packet, &self.saved_tables()));
        let mut found = Verdict::Accepted;
        for verdict in saved.chain(nft) {
            match verdict {
                Verdict::Dropped { .. } => return verdict,
                Verdict::Unsure { .. } if found == Verdict::Accepted => found = verdict,
                Verdict::Unsure { .. } | Verdict::Accepted => {}
            }
        }
        found
    }

    /// The first rule that certainly changes addresses or ports of `packet`.
    pub fn rewrite(&self, packet: &Packet) -> Option<Rewrite> {
        let saved =
            self.saved.iter().find_map(|(tool, text)| iptables::rewrite(tool, text, packet));
        let of_nft = || nft::rewrite(self.nft.as_ref()?, packet, &self.saved_tables());
        saved.or_else(of_nft)
    }

    /// Names of the tables that `iptables-save` printed.
    fn saved_tables(&self) -> Vec<&str> {
        let lines = self.saved.iter().flat_map(|(_, text)| text.lines());
        lines.filter_map(|line| line.strip_prefix('*')).collect()
    }
}

/// Whether two outputs of `iptables-save` differ in comments and counters alone.
fn same_rules(one: &str, other: &str) -> bool {
    let rules = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
    };
    rules(one) == rules(other)
}

/// Whether a match fits a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Unknown,
}

impl Fit {
    const fn of(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }

    /// Of a value of the packet that may not be known.
    fn of_known<T>(value: Option<T>, fits: impl FnOnce(T) -> bool) -> Self {
        value.map_or(Self::Unknown, |value| Self::of(fits(value)))
    }

    const fn negated_if(self, negated: bool) -> Self {
        match (self, negated) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (fit, _) => fit,
        }
    }

    /// Both.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }

    /// One of them.
    const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }
}

/// How a chain ended for a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped(String),
    Rewritten(String, Rewritten),
    /// Nothing in it decided.
    Returned,
}

/// What a walk through a chain found besides its end.
#[derive(Debug, Default)]
struct Doubts {
    /// Whether a rule that may or may not match accepts.
    may_accept: bool,
    /// The first rule that may or may not match and drops.
    may_drop: Option<String>,
}

impl Doubts {
    /// Takes the end of a rule that may or may not match. Marks are set by rules that are not followed.
    fn take(&mut self, end: End, is_about_mark: bool) {
        match end {
            End::Accepted => self.may_accept = true,
            End::Dropped(rule) if !is_about_mark => {
                self.may_drop.get_or_insert(rule);
            }
            End::Dropped(_) | End::Rewritten(..) | End::Returned => {}
        }
    }
}

/// Deepest jump from chain to chain that is followed: the kernel allows no loops, and few people
/// nest further.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests;
