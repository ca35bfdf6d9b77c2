//! Our rules as input of `nft -f -`, one transaction each. All pure.

use super::listing::{ListedRule, Listing};
use crate::control::firewall::rules::{Addrs, Rule, Verdict};

/// Our table. flannel makes one for each address family; we carry IPv4.
/// `pkg/trafficmngr/nftables/nftables.go`.
pub(super) const TABLE: &str = "ip flannel-ipv4";

/// All tables that any flannel makes, by family and name.
pub(super) const ALL_TABLES: [&str; 2] = [TABLE, "ip6 flannel-ipv6"];

/// A chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// Where the kernel calls it.
    hook: &'static str,
    /// Its rules, in our words.
    rules: Vec<String>,
}

impl Chain {
    /// Lets forwarded packets pass.
    pub(super) fn forward(rules: &[Rule]) -> Self {
        let hook = "type filter hook forward priority 0; policy accept;";
        Self { name: "forward", hook, rules: rules.iter().map(text).collect() }
    }

    /// Masquerades.
    pub(super) fn postrouting(rules: &[Rule]) -> Self {
        let hook = "type nat hook postrouting priority 100; policy accept;";
        Self { name: "postrtg", hook, rules: rules.iter().map(text).collect() }
    }

    /// How many rules it is to hold.
    pub(super) const fn len(&self) -> usize {
        self.rules.len()
    }

    fn declare(&self, script: &mut String) {
        add(script, &format!("add chain {TABLE} {} {{ {} }}", self.name, self.hook));
    }

    fn append_rules(&self, script: &mut String) {
        for rule in &self.rules {
            add(script, &format!("add rule {TABLE} {} {rule}", self.name));
        }
    }
}

/// A rule in nftables' words.
fn text(rule: &Rule) -> String {
    let mut text = String::new();
    if let Some(mark) = rule.mark {
        text += &format!("meta mark {mark:#x} ");
    }
    for (field, addrs) in [("ip saddr", rule.source), ("ip daddr", rule.destination)] {
        match addrs {
            Addrs::Any => {}
            Addrs::In(range) => text += &format!("{field} {range} "),
            Addrs::NotIn(range) => text += &format!("{field} != {range} "),
        }
    }
    text + match rule.verdict {
        Verdict::Accept => "accept",
        Verdict::Return => "return",
        Verdict::Masquerade { fully_random: false } => "masquerade",
        Verdict::Masquerade { fully_random: true } => "masquerade fully-random",
    }
}

/// Makes our table anew, with `chains` and nothing else.
pub(super) fn replace(chains: &[Chain]) -> String {
    let mut script = String::new();
    // A table must exist to be deleted.
    add(&mut script, &format!("add table {TABLE}"));
    add(&mut script, &format!("delete table {TABLE}"));
    declare_table(&mut script);
    for chain in chains {
        chain.declare(&mut script);
        chain.append_rules(&mut script);
    }
    script
}

/// Mends what is amiss in `actual`; `None` if nothing is. `ours` are our rules as this `nft` lists
/// them. Rules of others, such as a second flanneld with another network, stay.
pub(super) fn repair(chains: &[Chain], ours: &[Vec<String>], actual: &Listing) -> Option<String> {
    let mut script = String::new();
    for (chain, ours) in chains.iter().zip(ours) {
        let found = actual.get(chain.name).map_or(&[][..], Vec::as_slice);
        let is_ours = |rule: &&ListedRule| ours.contains(&rule.text);
        if actual.contains_key(chain.name)
            && found.iter().filter(is_ours).map(|rule| &rule.text).eq(ours)
        {
            continue;
        }
        chain.declare(&mut script);
        for rule in found.iter().filter(is_ours) {
            let handle = rule.handle;
            add(&mut script, &format!("delete rule {TABLE} {} handle {handle}", chain.name));
        }
        chain.append_rules(&mut script);
    }
    (!script.is_empty()).then_some(script)
}

/// Deletes `table`.
pub(super) fn delete(table: &str) -> String {
    format!("delete table {table}\n")
}

/// Tries out, in check mode, whether masquerading takes a random port.
pub(super) const PROBE_FULLY_RANDOM: &str = "\
add table ip flannel-probe
add chain ip flannel-probe probe { type nat hook postrouting priority 100; }
add rule ip flannel-probe probe masquerade fully-random
";

fn declare_table(script: &mut String) {
    let name = TABLE.trim_start_matches("ip ");
    add(script, &format!("add table {TABLE} {{ comment \"rules for {name}\"; }}"));
}

fn add(script: &mut String, line: &str) {
    *script += line;
    script.push('\n');
}

#[cfg(test)]
mod tests;
