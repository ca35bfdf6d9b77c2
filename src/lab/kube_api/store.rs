//! [`Store`]: what the server holds, with its history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::faults::Faults;
use super::patch::merge;

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Such as `PATCH`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// The body; empty without one.
    pub body: String,
}

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) kind: &'static str,
    pub(super) node: Value,
}

/// Nodes and pods.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) revision: u64,
    /// No watch can start from an older version.
    pub(super) oldest: u64,
    pub(super) history: Vec<Change>,
    pub(super) faults: Faults,
    pub(super) requests: Vec<Seen>,
    /// How often all watches were broken off.
    pub(super) num_drops: u64,
    nodes: BTreeMap<String, Value>,
    pods: BTreeMap<(String, String), String>,
}

impl Store {
    pub(super) fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.get(name)
    }

    /// At most `limit` nodes whose names come after `after`.
    pub(super) fn nodes_after(&self, after: &str, limit: usize) -> Vec<&Value> {
        let later = self.nodes.iter().filter(|(name, _)| name.as_str() > after);
        later.take(limit).map(|(_, node)| node).collect()
    }

    pub(super) fn put(&mut self, node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = if self.nodes.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        self.record(&name, kind, node);
    }

    /// Merges a patch into a node; `None` if there is no such node.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) -> Option<Value> {
        let before = self.nodes.get(name)?;
        let mut node = before.clone();
        merge(&mut node, patch);
        if node != *before {
            self.record(name, "MODIFIED", node);
        }
        self.nodes.get(name).cloned()
    }

    pub(super) fn delete(&mut self, name: &str) -> Option<Value> {
        let mut node = self.nodes.remove(name)?;
        self.revision += 1;
        node["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let (revision, kind) = (self.revision, "DELETED");
        self.history.push(Change { revision, kind, node: node.clone() });
        Some(node)
    }

    pub(super) fn put_pod(&mut self, namespace: &str, name: &str, node: &str) {
        self.pods.insert((namespace.to_owned(), name.to_owned()), node.to_owned());
    }

    pub(super) fn node_of_pod(&self, namespace: &str, name: &str) -> Option<&str> {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).map(String::as_str)
    }

    pub(super) fn compact(&mut self) {
        self.revision += 1;
        self.oldest = self.revision;
        self.history.clear();
    }

    pub(super) fn forget(&mut self) {
        self.nodes.clear();
        self.history.clear();
        (self.revision, self.oldest) = (1, 1);
    }

    fn record(&mut self, name: &str, kind: &'static str, mut node: Value) {
        self.revision += 1;
        node["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let revision = self.revision;
        self.history.push(Change { revision, kind, node: node.clone() });
        self.nodes.insert(name.to_owned(), node);
    }
}
