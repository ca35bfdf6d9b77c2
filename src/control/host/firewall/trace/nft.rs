//! Rules as `nft -j list ruleset` prints them: libnftables-json(5).

mod devices;
mod fits;
mod walk;

use serde_json::Value;

pub(super) use self::devices::{is_without_devices, with_devices};
use self::walk::Walk;
use super::{Doubts, End, Packet, Rewrite, Verdict, Way};

/// The hooks that a packet passes.
const fn hooks(way: Way) -> &'static [&'static str] {
    match way {
        Way::Forward | Way::BridgeForward => &["prerouting", "forward", "postrouting"],
        Way::Input | Way::BridgeInput => &["prerouting", "input"],
        Way::Output | Way::BridgeOutput => &["output", "postrouting"],
    }
}

/// What the ruleset in `json` does with `packet`. Of tables that iptables made, those that
/// `iptables-save` printed, `saved`, are left out.
pub(super) fn verdict(json: &str, packet: &Packet, saved: &[&str]) -> Verdict {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let items = items(&ruleset);
    let mut found = Verdict::Accepted;
    for chain in chains(items).filter(|it| is_passed(it, packet) && !is_saved(it, saved)) {
        let (family, table, name) = place(chain);
        let mut walk = Walk { items, family, table, packet, doubts: Doubts::default() };
        let end = match walk.chain(name, 0) {
            End::Returned if chain["policy"] == "drop" => End::Dropped("policy drop".to_owned()),
            end @ (End::Accepted | End::Dropped(_) | End::Rewritten(..) | End::Returned) => end,
        };
        let shown_by = format!("nft -a list table {family} {table}");
        let Doubts { may_accept, mut may_drop } = walk.doubts;
        if let End::Dropped(rule) = end {
            // Perhaps the packet does not pass its device.
            let is_device_unknown = family == "netdev" && chain["dev"].is_null();
            if !may_accept && !is_device_unknown {
                let by = format!("{rule} (chain {name} of table {family} {table})");
                let insert = format!("nft insert rule {family} {table} {name}");
                return Verdict::Dropped { by, shown_by, insert };
            }
            may_drop.get_or_insert(rule);
        }
        if let Some(rule) = may_drop.filter(|_| found == Verdict::Accepted) {
            let by = format!("{rule} (chain {name} of table {family} {table})");
            found = Verdict::Unsure { by, shown_by };
        }
    }
    found
}

/// The first rule of the ruleset in `json` that changes `packet`.
pub(super) fn rewrite(json: &str, packet: &Packet, saved: &[&str]) -> Option<Rewrite> {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let items = items(&ruleset);
    let is_asked = |chain: &&Value| {
        let has_hook = hooks(packet.way).iter().any(|hook| chain["hook"] == *hook);
        let is_of_family = chain["family"] == "ip" || chain["family"] == "inet";
        chain["type"] == "nat" && has_hook && is_of_family && !is_saved(chain, saved)
    };
    chains(items).filter(is_asked).find_map(|chain| {
        let (family, table, name) = place(chain);
        let mut walk = Walk { items, family, table, packet, doubts: Doubts::default() };
        let End::Rewritten(rule, what) = walk.chain(name, 0) else { return None };
        let by = format!("{rule} (chain {name} of table {family} {table})");
        let shown_by = format!("nft -a list table {family} {table}");
        (!walk.doubts.may_accept).then_some(Rewrite { by, shown_by, what })
    })
}

fn items(ruleset: &Value) -> &[Value] {
    ruleset["nftables"].as_array().map_or(&[][..], Vec::as_slice)
}

fn chains(items: &[Value]) -> impl Iterator<Item = &Value> {
    items.iter().filter_map(|item| item.get("chain"))
}

/// Whether iptables may have made a table of the ruleset in `json`.
pub(super) fn has_tables_of_iptables(json: &str) -> bool {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    chains(items(&ruleset)).any(is_of_iptables)
}

/// Whether `chain` is called for `packet`. Chains for NAT drop nothing.
fn is_passed(chain: &Value, packet: &Packet) -> bool {
    let hook = chain["hook"].as_str().unwrap_or_default();
    let is_bridged =
        matches!(packet.way, Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward);
    let has_hook = chain["type"] != "nat" && hooks(packet.way).contains(&hook);
    match chain["family"].as_str() {
        Some("bridge") => is_bridged && has_hook,
        Some("ip") => !is_bridged && has_hook,
        Some(family @ ("inet" | "netdev")) => {
            let is_at_link = is_at_link(chain, hook, packet);
            is_at_link || (family == "inet" && !is_bridged && has_hook)
        }
        Some(_) | None => false,
    }
}

/// Whether `chain` sees all packets of a link that `packet` passes.
fn is_at_link(chain: &Value, hook: &str, packet: &Packet) -> bool {
    let link = match hook {
        "ingress" => &packet.in_link,
        "egress" => &packet.out_link,
        _ => return false,
    };
    let Some(link) = link.as_deref() else { return false };
    let devices = &chain["dev"];
    devices.is_null()
        || devices == link
        || devices.as_array().is_some_and(|all| all.iter().any(|it| it == link))
}

/// Whether `iptables-save` printed the rules of `chain`: it leaves out tables that it cannot express.
fn is_saved(chain: &Value, saved: &[&str]) -> bool {
    is_of_iptables(chain) && saved.contains(&place(chain).1)
}

fn is_of_iptables(chain: &Value) -> bool {
    const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
    const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let (family, table, name) = place(chain);
    family == "ip" && TABLES.contains(&table) && CHAINS.contains(&name)
}

/// Family, table and name of a chain.
fn place(chain: &Value) -> (&str, &str, &str) {
    let text = |key: &str| chain[key].as_str().unwrap_or_default();
    (text("family"), text("table"), text("name"))
}
