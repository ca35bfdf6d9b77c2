//! What `nft -a list table` prints, as chains of rules.

use std::collections::BTreeMap;

/// One table's chains, each with its rules in order.
pub(super) type Listing = BTreeMap<String, Vec<ListedRule>>;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedRule {
    /// Its text, in the words of this version of `nft`.
    pub(super) text: String,
    /// The kernel's number for it.
    pub(super) handle: u64,
}

impl AsRef<str> for ListedRule {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Reads the chains in `text`, passing over whatever else a table may hold.
pub(super) fn parse(text: &str) -> Listing {
    let mut listing = Listing::new();
    let mut chain: Option<&mut Vec<ListedRule>> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.split(' ').next()) {
            chain = Some(listing.entry(name.to_owned()).or_default());
        } else if line == "}" {
            chain = None;
        } else if let (Some(rules), Some(rule)) = (&mut chain, parse_rule(line)) {
            rules.push(rule);
        }
    }
    listing
}

fn parse_rule(line: &str) -> Option<ListedRule> {
    let (text, handle) = line.rsplit_once(" # handle ")?;
    Some(ListedRule { text: text.to_owned(), handle: handle.parse().ok()? })
}
