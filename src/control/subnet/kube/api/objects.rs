//! The members that we read of the API's objects. All others are skipped.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::control::subnet::kube) struct NodeObject {
    /// `Node`; a list leaves it out.
    pub(super) kind: String,
    pub(in crate::control::subnet::kube) metadata: NodeMetadata,
    pub(in crate::control::subnet::kube) spec: NodeSpec,
    pub(in crate::control::subnet::kube) status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::control::subnet::kube) struct NodeMetadata {
    pub(in crate::control::subnet::kube) name: String,
    pub(in crate::control::subnet::kube) resource_version: String,
    pub(in crate::control::subnet::kube) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::control::subnet::kube) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(in crate::control::subnet::kube) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(in crate::control::subnet::kube) pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::control::subnet::kube) struct NodeStatus {
    pub(in crate::control::subnet::kube) conditions: Option<Vec<NodeCondition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::control::subnet::kube) struct NodeCondition {
    #[serde(rename = "type")]
    pub(in crate::control::subnet::kube) kind: String,
    pub(in crate::control::subnet::kube) status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) spec: PodSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
}

/// A list without its items.
#[derive(Debug, Deserialize)]
pub(super) struct ListHead {
    #[serde(default)]
    pub(super) kind: String,
    pub(super) metadata: ListMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub(super) resource_version: String,
    /// Where the next part begins; empty in the last.
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct WatchEvent<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchedObject {
    pub(super) metadata: WatchedMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct WatchedMetadata {
    pub(super) resource_version: String,
}

/// Why a request was refused, as the API server says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) message: String,
    pub(super) code: u16,
}
