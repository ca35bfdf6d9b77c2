//! What `iptables-save` prints, as chains of rules.

use std::collections::BTreeMap;

/// One table's rules, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::control::host::firewall) struct SavedTable {
    /// `filter`, say.
    pub(in crate::control::host::firewall) name: String,
    /// Rules of each chain in order, as `iptables-save` writes them behind `-A CHAIN `.
    pub(in crate::control::host::firewall) chains: BTreeMap<String, Vec<String>>,
    /// What becomes of packets at the end of each built-in chain: `ACCEPT` or `DROP`.
    policies: BTreeMap<String, String>,
}

impl SavedTable {
    /// Reads all tables in `text`, passing over what is neither table, chain nor rule.
    pub(in crate::control::host::firewall) fn parse_all(text: &str) -> Vec<Self> {
        let mut tables: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                tables.push(Self { name: name.to_owned(), ..Self::default() });
                continue;
            }
            let Some(table) = tables.last_mut() else { continue };
            if let Some(declared) = line.strip_prefix(':') {
                let mut words = declared.split(' ');
                let chain = words.next().unwrap_or_default();
                table.chains.entry(chain.to_owned()).or_default();
                let policy = words.next().filter(|policy| *policy != "-");
                table.policies.extend(policy.map(|it| (chain.to_owned(), it.to_owned())));
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(split_word) {
                table.chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
            }
        }
        tables
    }

    /// The policy of `chain`, if it is a built-in one.
    pub(in crate::control::host::firewall) fn policy(&self, chain: &str) -> Option<&str> {
        self.policies.get(chain).map(String::as_str)
    }

    /// The rules of `chain`; none, if there is no such chain.
    pub(in crate::control::host::firewall) fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map_or(&[], Vec::as_slice)
    }
}

fn split_word(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
}
