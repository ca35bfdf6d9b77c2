//! [`Walk`]: what the rules of a chain do with a packet.

use serde_json::Value;

use super::fits::{of_packet, unwrapped};
use super::place;
use crate::control::host::firewall::trace::{Doubts, End, Fit, MAX_DEPTH, Packet, Rewritten};

/// Follows one packet through the chains of one table.
pub(super) struct Walk<'a> {
    pub(super) items: &'a [Value],
    pub(super) family: &'a str,
    pub(super) table: &'a str,
    pub(super) packet: &'a Packet,
    pub(super) doubts: Doubts,
}

/// What a rule does once it matches.
enum Action<'a> {
    End(End),
    Jump(&'a str),
    Goto(&'a str),
}

impl<'a> Walk<'a> {
    pub(super) fn chain(&mut self, name: &str, depth: usize) -> End {
        let rules = self.items.iter().filter_map(|item| item.get("rule"));
        let rules = rules.filter(|rule| {
            rule["family"] == self.family && rule["table"] == self.table && rule["chain"] == name
        });
        // What comes after a return that may or may not match may not be reached.
        let mut reached = Fit::Yes;
        for rule in rules.collect::<Vec<_>>() {
            let (fit, action) = self.rule(rule);
            let fit = fit.and(reached);
            let (end, ends_chain) = match action {
                _ if fit == Fit::No || depth > MAX_DEPTH => continue,
                None => continue,
                Some(Action::End(End::Returned)) if fit == Fit::Yes => return End::Returned,
                Some(Action::End(End::Returned)) => (End::Returned, true),
                Some(Action::End(end)) => (end, false),
                Some(Action::Jump(target)) => (self.chain(target, depth + 1), false),
                Some(Action::Goto(target)) => (self.chain(target, depth + 1), true),
            };
            match (end, fit) {
                (End::Returned, Fit::Yes) if ends_chain => return End::Returned,
                (End::Returned, _) if ends_chain => reached = Fit::Unknown,
                (End::Returned, _) => {}
                (end, Fit::Yes) => return end,
                (end, _) => self.doubts.take(end, rule["expr"].to_string().contains("\"mark\"")),
            }
        }
        End::Returned
    }

    /// Whether a rule matches, and what it does then.
    fn rule(&mut self, rule: &'a Value) -> (Fit, Option<Action<'a>>) {
        let mut fit = Fit::Yes;
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((name, body)) = statement.as_object().and_then(|it| it.iter().next()) else {
                continue;
            };
            match name.as_str() {
                "match" => fit = fit.and(self.matches(body)),
                "vmap" => match self.mapped(rule, body) {
                    (Fit::No, _) => {}
                    (mapped, action) => return (fit.and(mapped), action),
                },
                "limit" | "quota" | "xt" | "ct count" => fit = fit.and(Fit::Unknown),
                _ => {
                    if let Some(action) = action(rule, name, body) {
                        return (fit, Some(action));
                    }
                }
            }
        }
        (fit, None)
    }

    /// What a map of verdicts does with the packet. A map in a set of its own may do anything.
    fn mapped(&mut self, rule: &'a Value, map: &'a Value) -> (Fit, Option<Action<'a>>) {
        let named = map["data"].as_str().and_then(|name| self.elements("map", name));
        let Some(elements) = map["data"]["set"].as_array().map(Vec::as_slice).or(named) else {
            self.doubts.may_accept = true;
            return (Fit::No, None);
        };
        for element in elements {
            match self.of_packet(&map["key"], unwrapped(&element[0])) {
                Fit::Yes => {
                    let verdict = element[1].as_object().and_then(|it| it.iter().next());
                    let action = verdict.and_then(|(name, body)| action(rule, name, body));
                    return (Fit::Yes, action);
                }
                Fit::Unknown => self.doubts.may_accept = true,
                Fit::No => {}
            }
        }
        (Fit::No, None)
    }

    /// The elements of a set or map with a name; `None` if there is none.
    fn elements(&self, kind: &str, name: &str) -> Option<&'a [Value]> {
        let name = name.strip_prefix('@')?;
        let sets = self.items.iter().filter_map(|item| item.get(kind));
        let set = sets.into_iter().find(|it| place(it) == (self.family, self.table, name))?;
        Some(set["elem"].as_array().map_or(&[][..], Vec::as_slice))
    }

    fn matches(&self, body: &Value) -> Fit {
        let negated = body["op"] == "!=";
        match body["op"].as_str() {
            Some("==" | "!=" | "in") => {
                self.of_packet(&body["left"], &body["right"]).negated_if(negated)
            }
            Some(_) | None => Fit::Unknown,
        }
    }

    /// Whether what `left` reads from the packet is `right`, or one of it.
    fn of_packet(&self, left: &Value, right: &Value) -> Fit {
        let named = right.as_str().and_then(|name| self.elements("set", name));
        let set = right["set"].as_array().or(right.as_array()).map(Vec::as_slice);
        match set.or(named) {
            Some(set) => {
                let fits = set.iter().map(|element| self.of_packet(left, unwrapped(element)));
                fits.fold(Fit::No, Fit::or)
            }
            None => of_packet(left, right, self.packet),
        }
    }
}

/// A statement that decides; `None` for one that only counts, logs or marks.
fn action<'a>(rule: &Value, name: &str, body: &'a Value) -> Option<Action<'a>> {
    let target = body["target"].as_str().unwrap_or_default();
    Some(match name {
        "accept" | "queue" => Action::End(End::Accepted),
        "drop" | "reject" => Action::End(End::Dropped(describe(rule, name))),
        "snat" | "dnat" | "masquerade" | "redirect" => {
            Action::End(End::Rewritten(describe(rule, name), rewritten(name, body)))
        }
        "return" => Action::End(End::Returned),
        "jump" => Action::Jump(target),
        "goto" => Action::Goto(target),
        _ => return None,
    })
}

fn rewritten(name: &str, body: &Value) -> Rewritten {
    let source = body["addr"].as_str().and_then(|addr| addr.parse().ok());
    match (name, source) {
        ("snat", Some(source)) => Rewritten::Source(source),
        ("snat" | "masquerade", _) => Rewritten::Masquerade,
        (_, _) => Rewritten::Destination,
    }
}

fn describe(rule: &Value, verdict: &str) -> String {
    let comment = rule["comment"].as_str();
    let comment = comment.map_or(String::new(), |comment| format!(" {comment:?}"));
    let chain = rule["chain"].as_str().unwrap_or_default();
    let random = if rule["expr"].to_string().contains("numgen") { " (random)" } else { "" };
    format!("{verdict} rule{comment} with handle {} in chain {chain}{random}", rule["handle"])
}
