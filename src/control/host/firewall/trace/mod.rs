//! What the host's filter rules do with one packet: read the rules, change nothing.
//!
//! Only rules that certainly match count. A rule with a match that is not known here, such as one of
//! a set or a rate, may or may not match: if it could accept the packet, the answer is
//! [`Verdict::Unsure`], and if it could drop it, it is passed over.

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
    /// That depends on matches that are not known here.
    Unsure,
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
        // The legacy tool would load its modules, so it is asked only if they are in use.
        let legacy = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
        let mut tools = vec!["iptables"];
        if !legacy.trim().is_empty() {
            tools.push("iptables-legacy");
        }
        for tool in tools {
            let printed = run(&format!("{tool}-save"), &[], "").await;
            if let Some(text) = rules.take(printed)
                && !rules.saved.iter().any(|(_, known)| same_rules(known, &text))
            {
                rules.saved.push((tool.to_owned(), text));
            }
        }
        let printed = run("nft", &["-j", "list", "ruleset"], "").await;
        rules.nft = rules.take(printed);
        rules
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
        let nft = self.nft.iter().map(|json| nft::verdict(json, packet));
        let mut found = Verdict::Accepted;
        for verdict in saved.chain(nft) {
            match verdict {
                Verdict::Dropped { .. } => return verdict,
                Verdict::Unsure => found = Verdict::Unsure,
                Verdict::Accepted => {}
            }
        }
        found
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
    /// Nothing in it decided.
    Returned,
}

/// Deepest jump from chain to chain that is followed: the kernel allows no loops, and few people
/// nest further.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests;
