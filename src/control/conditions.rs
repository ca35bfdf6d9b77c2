//! [`Conditions`]: how each thing that the overlay needs of this host is, by name.

use std::collections::BTreeMap;

use serde::Serialize;
use tracing::{info, warn};

use super::util::log_limit::LogLimit;

/// How one thing is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As it should be.
    #[default]
    Ok,
    /// Some packets do not arrive, for this reason: one line. The node is ready all the same.
    Degraded(String),
    /// The node does not do its part, for this reason: one line.
    Failed(String),
}

impl Condition {
    /// Whether it is `Ok`.
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }
}

/// All of them. Each backend has its own; the names are those that `/readyz` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Conditions(BTreeMap<&'static str, Condition>);

impl Conditions {
    /// Conditions of these names, all of them `Ok`.
    pub fn ok(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, Condition::Ok)).collect())
    }

    /// Sets the condition `name`.
    pub fn set(&mut self, name: &'static str, condition: Condition) {
        self.0.insert(name, condition);
    }

    /// The condition `name`; `Ok` if there is none.
    pub fn get(&self, name: &str) -> Condition {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// Every condition with its name, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Condition)> {
        self.0.iter().map(|(name, condition)| (*name, condition))
    }

    /// Logs what differs from `before`, and repeats at the pace of `log` what is still not ok.
    /// Conditions named in `quiet` are logged by their own reporters.
    pub(crate) fn log_changes(&self, before: &Self, quiet: &[&str], log: &mut LogLimit) {
        for (name, now) in self.iter().filter(|(name, _)| !quiet.contains(name)) {
            let before = before.get(name);
            match now {
                Condition::Failed(reason) | Condition::Degraded(reason) => {
                    // The call also starts the minute without a repetition.
                    let is_due = log.is_due(reason);
                    if *now != before || is_due {
                        warn!("{name} degraded: {reason}");
                    }
                }
                Condition::Ok if !before.is_ok() => info!("{name}: ok again"),
                Condition::Ok => {}
            }
        }
    }
}
