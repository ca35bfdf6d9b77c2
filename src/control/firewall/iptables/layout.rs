//! Where our rules stand, and the batch that puts them there.
//!
//! All pure: texts of `iptables-save` come in, input of `iptables-restore --noflush` goes out. A
//! batch is one transaction, so that there is never a moment with half of the rules.

use super::saved::SavedTable;
use crate::control::firewall::rules::{Addrs, Rule, Verdict};

/// A chain of ours, and the chain of the kernel's that leads into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// The table they are in.
    pub(super) table: &'static str,
    /// The kernel's chain.
    pub(super) hook: &'static str,
    /// Our chain.
    pub(super) chain: &'static str,
    /// The comment on every rule.
    pub(super) comment: &'static str,
}

/// The layout since flannel 0.22: `pkg/trafficmngr/iptables/iptables.go`.
pub(super) const FORWARD: Layout =
    Layout { table: "filter", hook: "FORWARD", chain: "FLANNEL-FWD", comment: "flanneld forward" };

/// See [`FORWARD`].
pub(super) const MASQUERADE: Layout = Layout {
    table: "nat",
    hook: "POSTROUTING",
    chain: "FLANNEL-POSTRTG",
    comment: "flanneld masq",
};

/// Who else may have rules in our chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenancy {
    /// Nobody: what is not ours is from an earlier life. So it is at the start.
    Sole,
    /// Another flanneld on this host, with another network. So it is later.
    Shared,
}

impl Layout {
    /// The rule that leads into our chain, behind `-A HOOK `.
    pub(super) fn jump(self) -> String {
        format!("-m comment --comment \"{}\" -j {}", self.comment, self.chain)
    }

    /// A rule of our chain, behind `-A CHAIN `: to the byte what `iptables-save` prints of it.
    pub(super) fn rule(self, rule: &Rule) -> String {
        let mut text = String::new();
        if let Some(mark) = rule.mark {
            text += &format!("-m mark --mark {mark:#x}/{mark:#x} ");
        }
        for (flag, addrs) in [("-s", rule.source), ("-d", rule.destination)] {
            match addrs {
                Addrs::Any => {}
                Addrs::In(range) => text += &format!("{flag} {range} "),
                Addrs::NotIn(range) => text += &format!("! {flag} {range} "),
            }
        }
        let verdict = match rule.verdict {
            Verdict::Accept => "ACCEPT",
            Verdict::Return => "RETURN",
            Verdict::Masquerade { fully_random: false } => "MASQUERADE",
            Verdict::Masquerade { fully_random: true } => "MASQUERADE --random-fully",
        };
        text + &format!("-m comment --comment \"{}\" -j {verdict}", self.comment)
    }

    /// The batch that makes `rules` what our chain holds, with one way into it; `None` if all is
    /// as it should be.
    ///
    /// A way that is there stays where it is: its place among other people's rules is theirs.
    pub(super) fn repair(
        self,
        rules: &[String],
        actual: &SavedTable,
        tenancy: Tenancy,
    ) -> Option<String> {
        let (chain, hook, jump) = (self.chain, self.hook, self.jump());
        let mut batch = Batch::new(self.table);
        match actual.chains.get(chain) {
            Some(found) if is_right(rules, found, tenancy) => {}
            Some(found) if tenancy == Tenancy::Shared => {
                found.iter().filter(|rule| rules.contains(rule)).for_each(|rule| {
                    batch.delete(chain, rule);
                });
                rules.iter().for_each(|rule| batch.append(chain, rule));
            }
            Some(_) | None => {
                batch.make_or_flush(chain);
                rules.iter().for_each(|rule| batch.append(chain, rule));
            }
        }
        match actual.rules(hook).iter().filter(|rule| **rule == jump).count() {
            0 => batch.append(hook, &jump),
            ways => (1..ways).for_each(|_| batch.delete(hook, &jump)),
        }
        batch.into_text()
    }

    /// The batch that removes our chain, all ways into it, and what else `is_ours` says of the
    /// kernel's chain; `None` if there is nothing. With it, a line for each thing removed.
    pub(super) fn removal(
        self,
        actual: &SavedTable,
        is_ours: impl Fn(&str) -> bool,
    ) -> Option<(String, Vec<String>)> {
        let mut batch = Batch::new(self.table);
        for (chain, rules) in actual.chains.iter().filter(|(chain, _)| *chain != self.chain) {
            for rule in rules {
                if self.leads_to_chain(rule) || (chain == self.hook && is_ours(rule)) {
                    batch.delete(chain, rule);
                }
            }
        }
        let mut removed: Vec<String> =
            batch.lines.iter().map(|line| line.replacen("-D", "rule -A", 1)).collect();
        if actual.chains.contains_key(self.chain) {
            batch.remove(self.chain);
            removed.push(format!("chain {}", self.chain));
        }
        Some((batch.into_text()?, removed))
    }

    fn leads_to_chain(self, rule: &str) -> bool {
        let mut words = rule.rsplit(' ');
        let (last, before) = (words.next(), words.next());
        last == Some(self.chain) && matches!(before, Some("-j" | "-g"))
    }
}

fn is_right(rules: &[String], found: &[String], tenancy: Tenancy) -> bool {
    match tenancy {
        Tenancy::Sole => found == rules,
        Tenancy::Shared => found.iter().filter(|rule| rules.contains(rule)).eq(rules),
    }
}

/// Lines of one transaction.
struct Batch {
    table: &'static str,
    lines: Vec<String>,
}

impl Batch {
    const fn new(table: &'static str) -> Self {
        Self { table, lines: Vec::new() }
    }

    fn append(&mut self, chain: &str, rule: &str) {
        self.lines.push(format!("-A {chain} {rule}"));
    }

    fn delete(&mut self, chain: &str, rule: &str) {
        self.lines.push(format!("-D {chain} {rule}"));
    }

    /// Even with `--noflush`, declaring a chain that exists empties it.
    fn make_or_flush(&mut self, chain: &str) {
        self.lines.push(format!(":{chain} - [0:0]"));
    }

    fn remove(&mut self, chain: &str) {
        self.lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }

    fn into_text(self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        Some(format!("*{}\n{}\nCOMMIT\n", self.table, self.lines.join("\n")))
    }
}

#[cfg(test)]
mod tests;
