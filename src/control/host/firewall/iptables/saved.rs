//! What `iptables-save` prints, as chains of rules.

use std::collections::BTreeMap;

/// One table's rules, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SavedTable {
    /// `filter`, say.
    pub(super) name: String,
    /// Rules of each chain in order, as `iptables-save` writes them behind `-A CHAIN `.
    pub(super) chains: BTreeMap<String, Vec<String>>,
}

impl SavedTable {
    /// Reads all tables in `text`, passing over what is neither table, chain nor rule.
    pub(super) fn parse_all(text: &str) -> Vec<Self> {
        let mut tables: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                tables.push(Self { name: name.to_owned(), ..Self::default() });
                continue;
            }
            let Some(table) = tables.last_mut() else { continue };
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                table.chains.entry(chain.to_owned()).or_default();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(split_word) {
                table.chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
            }
        }
        tables
    }

    /// The rules of `chain`; none, if there is no such chain.
    pub(super) fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map_or(&[], Vec::as_slice)
    }
}

fn split_word(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
}
