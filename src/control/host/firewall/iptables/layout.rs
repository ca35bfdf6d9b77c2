//! The place of our rules, and the batch that puts them there.
//!
//! All pure: texts of `iptables-save` come in, input of `iptables-restore --noflush` goes out. A
//! batch is one transaction, so that there is never a moment with half of the rules.

use ipnetwork::Ipv4Network;

use super::saved::SavedTable;
use crate::control::host::firewall::rules::{Addrs, OwnRule, Rule, Verdict, is_about, is_right};

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

impl Layout {
    /// The rule that leads into our chain, behind `-A HOOK `.
    pub(super) fn jump(self) -> String {
        format!("-m comment --comment \"{}\" -j {}", self.comment, self.chain)
    }

    /// A rule of our chain, behind `-A CHAIN `: to the byte what `iptables-save` prints of it.
    pub(super) fn rule(self, rule: &Rule) -> OwnRule {
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
        text += &format!("-m comment --comment \"{}\" -j {verdict}", self.comment);
        OwnRule::new(rule, text)
    }

    /// The batch that puts `rules` into our chain, with one way into it; `None` if all is as it
    /// should be. Other rules about the networks in `stale` go; the rest, such as those of another
    /// flanneld with another network, stays.
    ///
    /// A way that is there stays where it is: its place among other people's rules is theirs.
    pub(super) fn repair(
        self,
        rules: &[OwnRule],
        actual: &SavedTable,
        stale: &[Ipv4Network],
    ) -> Option<String> {
        let (chain, hook, jump) = (self.chain, self.hook, self.jump());
        let mut batch = Batch::new(self.table);
        let found = actual.chains.get(chain);
        if found.is_none() {
            batch.make(chain);
        }
        let found = found.map_or(&[][..], Vec::as_slice);
        let is_wanted = |text: &String| rules.iter().any(|rule| rule.text == *text);
        let is_stale = |text: &&String| !is_wanted(text) && self.is_about_any(text, stale);
        found.iter().filter(is_stale).for_each(|rule| batch.delete(chain, rule));
        if !is_right(rules, found) {
            found.iter().filter(|text| is_wanted(text)).for_each(|rule| batch.delete(chain, rule));
            let (first, last): (Vec<&OwnRule>, Vec<&OwnRule>) =
                rules.iter().partition(|rule| rule.is_exemption);
            // Exemptions come before what other networks' rules would do.
            let is_alone = found.iter().all(|text| is_wanted(text) || is_stale(&text));
            match is_alone {
                true => first.iter().for_each(|rule| batch.append(chain, &rule.text)),
                false => first.iter().rev().for_each(|rule| batch.insert(chain, &rule.text)),
            }
            last.iter().for_each(|rule| batch.append(chain, &rule.text));
        }
        match actual.rules(hook).iter().filter(|rule| **rule == jump).count() {
            0 => batch.append(hook, &jump),
            ways => (1..ways).for_each(|_| batch.delete(hook, &jump)),
        }
        batch.into_text()
    }

    /// Whether `rule` is a flannel's and about one of `networks`.
    fn is_about_any(self, rule: &str, networks: &[Ipv4Network]) -> bool {
        rule.contains(&format!("--comment \"{}\"", self.comment))
            && networks.iter().any(|network| is_about(rule, *network))
    }

    /// The batch that removes our rules about `networks`, with a line for each; our chain goes too
    /// if nothing else is in it. `None` if there is nothing.
    pub(super) fn withdrawal(
        self,
        rules: &[OwnRule],
        actual: &SavedTable,
        networks: &[Ipv4Network],
    ) -> Option<(String, Vec<String>)> {
        let found = actual.chains.get(self.chain)?;
        let is_shared =
            |text: &String| rules.iter().any(|rule| rule.is_shared && rule.text == *text);
        let is_ours = |text: &String| self.is_about_any(text, networks);
        if found.iter().all(|text| is_shared(text) || is_ours(text)) {
            return self.removal(actual, |_| false);
        }
        let mut batch = Batch::new(self.table);
        found.iter().filter(|text| is_ours(text)).for_each(|rule| batch.delete(self.chain, rule));
        let removed = batch.lines.iter().map(|line| line.replacen("-D", "rule -A", 1)).collect();
        Some((batch.into_text()?, removed))
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

    fn insert(&mut self, chain: &str, rule: &str) {
        self.lines.push(format!("-I {chain} {rule}"));
    }

    /// Fails if another flanneld has made it meanwhile. To declare it with `:` would empty it then,
    /// even with `--noflush`.
    fn make(&mut self, chain: &str) {
        self.lines.push(format!("-N {chain}"));
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
