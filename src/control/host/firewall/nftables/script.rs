//! Our rules as input of `nft -f -`, one transaction each. All pure.

use ipnetwork::Ipv4Network;

use super::listing::{ListedRule, Listing};
use crate::control::host::firewall::rules::{Addrs, OwnRule, Rule, Verdict, is_about, is_right};

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
    rules: Vec<OwnRule>,
}

impl Chain {
    /// Lets forwarded packets pass.
    pub(super) fn forward(rules: &[Rule]) -> Self {
        let hook = "type filter hook forward priority 0; policy accept;";
        Self { name: "forward", hook, rules: rules.iter().map(own).collect() }
    }

    /// Masquerades.
    pub(super) fn postrouting(rules: &[Rule]) -> Self {
        let hook = "type nat hook postrouting priority 100; policy accept;";
        Self { name: "postrtg", hook, rules: rules.iter().map(own).collect() }
    }

    /// How many rules it is to hold.
    pub(super) const fn len(&self) -> usize {
        self.rules.len()
    }

    fn declare(&self, script: &mut String) {
        add(script, &format!("add chain {TABLE} {} {{ {} }}", self.name, self.hook));
    }

    /// Adds the rules: exemptions before what other networks' rules would do, if there are some.
    fn add_rules(&self, script: &mut String, is_alone: bool) {
        let (first, last): (Vec<&OwnRule>, Vec<&OwnRule>) =
            self.rules.iter().partition(|rule| rule.is_exemption && !is_alone);
        for rule in first.iter().rev() {
            add(script, &format!("insert rule {TABLE} {} {}", self.name, rule.text));
        }
        for rule in last {
            add(script, &format!("add rule {TABLE} {} {}", self.name, rule.text));
        }
    }

    /// Our rules as `listed`: how this version of `nft` writes them. They are recognised by our network,
    /// and their order. `None` if they are not all there.
    pub(super) fn read_back(
        &self,
        listed: &[ListedRule],
        network: Ipv4Network,
    ) -> Option<Vec<OwnRule>> {
        let mut ours = listed.iter().filter(|rule| is_about(&rule.text, network));
        let mut rules = Vec::new();
        for rule in &self.rules {
            let found = match rule.is_shared {
                true => listed.iter().find(|rule| is_mark(&rule.text))?,
                false => ours.next()?,
            };
            rules.push(OwnRule { text: found.text.clone(), ..rule.clone() });
        }
        ours.next().is_none().then_some(rules)
    }
}

/// Whether a rule is the one for kube-proxy's mark, the same for every network.
fn is_mark(text: &str) -> bool {
    text.starts_with("meta mark ") && text.ends_with(" return")
}

/// A rule in nftables' words.
fn own(rule: &Rule) -> OwnRule {
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
    text += match rule.verdict {
        Verdict::Accept => "accept",
        Verdict::Return => "return",
        Verdict::Masquerade { fully_random: false } => "masquerade",
        Verdict::Masquerade { fully_random: true } => "masquerade fully-random",
    };
    OwnRule::new(rule, text)
}

/// Puts `chains` into our table, in the place of whatever else is about the networks in `stale`;
/// rules of others, such as a second flanneld with another network, stay.
pub(super) fn set_up(chains: &[Chain], actual: &Listing, stale: &[Ipv4Network]) -> String {
    let mut script = String::new();
    declare_table(&mut script);
    let is_stale = |rule: &ListedRule| stale.iter().any(|network| is_about(&rule.text, *network));
    for (name, found) in actual.iter().filter(|(name, _)| OUR_CHAINS.contains(&name.as_str())) {
        let wanted = chains.iter().find(|chain| chain.name == name.as_str());
        let others = found.iter().filter(|rule| !is_stale(rule) && !is_mark(&rule.text)).count();
        for rule in found.iter().filter(|rule| is_stale(rule)) {
            delete_rule(&mut script, name, rule);
        }
        if wanted.is_none() && others == 0 {
            found.iter().filter(|rule| is_mark(&rule.text) && !is_stale(rule)).for_each(|rule| {
                delete_rule(&mut script, name, rule);
            });
            add(&mut script, &format!("delete chain {TABLE} {name}"));
        }
    }
    for chain in chains {
        let found = actual.get(chain.name).map_or(&[][..], Vec::as_slice);
        chain.declare(&mut script);
        delete_marks(&mut script, chain, found);
        chain
            .add_rules(&mut script, found.iter().all(|rule| is_stale(rule) || is_mark(&rule.text)));
    }
    script
}

/// The repair of `actual`; `None` if it is right. `ours` are our rules as this `nft` lists
/// them. Rules of others stay.
pub(super) fn repair(chains: &[Chain], ours: &[Vec<OwnRule>], actual: &Listing) -> Option<String> {
    let mut script = String::new();
    for (chain, ours) in chains.iter().zip(ours) {
        let found = actual.get(chain.name).map_or(&[][..], Vec::as_slice);
        if actual.contains_key(chain.name) && is_right(ours, found) {
            continue;
        }
        let is_ours =
            |rule: &ListedRule| ours.iter().any(|own| !own.is_shared && own.text == rule.text);
        if script.is_empty() {
            declare_table(&mut script);
        }
        chain.declare(&mut script);
        for rule in found.iter().filter(|rule| is_ours(rule)) {
            delete_rule(&mut script, chain.name, rule);
        }
        delete_marks(&mut script, chain, found);
        chain.add_rules(&mut script, found.iter().all(|rule| is_ours(rule) || is_mark(&rule.text)));
    }
    (!script.is_empty()).then_some(script)
}

/// Removes our rules about `networks`; a chain goes too if nothing else is in it, and the table
/// with its last one. `None` if there is nothing.
pub(super) fn withdraw(actual: &Listing, networks: &[Ipv4Network]) -> Option<String> {
    let mut script = set_up(&[], actual, networks);
    let declared = script.find('\n')?;
    script.replace_range(..=declared, "");
    let is_whole =
        actual.keys().all(|name| script.contains(&format!("delete chain {TABLE} {name}\n")));
    if is_whole { Some(delete(TABLE)) } else { (!script.is_empty()).then_some(script) }
}

/// The chains that any flannel makes.
const OUR_CHAINS: [&str; 2] = ["forward", "postrtg"];

/// A chain gets a mark rule from us when it gets our rules: one is enough, at the top.
fn delete_marks(script: &mut String, chain: &Chain, found: &[ListedRule]) {
    if chain.rules.iter().any(|rule| rule.is_shared) {
        found.iter().filter(|rule| is_mark(&rule.text)).for_each(|rule| {
            delete_rule(script, chain.name, rule);
        });
    }
}

fn delete_rule(script: &mut String, chain: &str, rule: &ListedRule) {
    add(script, &format!("delete rule {TABLE} {chain} handle {}", rule.handle));
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
