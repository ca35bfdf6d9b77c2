//! The devices of netdev chains, which nft before 1.0.8 leaves out of its JSON.

use serde_json::Value;

use super::{chains, items, place};

/// Whether the ruleset in `json` has a chain of a device that it does not name.
pub(in super::super) fn is_without_devices(json: &str) -> bool {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    chains(items(&ruleset)).any(|chain| chain["family"] == "netdev" && chain["dev"].is_null())
}

/// The ruleset in `json` with the devices that it has as `text`.
pub(in super::super) fn with_devices(json: &str, text: &str) -> String {
    let mut ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let (mut table, mut chain) = ("", "");
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, ..] => table = if *family == "netdev" { name } else { "" },
            ["chain", name, ..] => chain = name,
            ["type", _, "hook", _, "device", device, ..] if !table.is_empty() => {
                let device = device.trim_matches('"');
                let chains = ruleset["nftables"].as_array_mut().into_iter().flatten();
                for it in chains.filter_map(|item| item.get_mut("chain")) {
                    if place(it) == ("netdev", table, chain) {
                        it["dev"] = device.into();
                    }
                }
            }
            _ => {}
        }
    }
    ruleset.to_string()
}
