//! [`Conditions`]: how each thing that the overlay needs of this host is, by name.

use std::collections::BTreeMap;

use serde::Serialize;

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
}
