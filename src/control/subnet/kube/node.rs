//! [`Node`]: what we keep of a node object, which may have a hundred kilobytes.

use super::annotations::Annotations;
use super::api::{NodeCondition, NodeObject};
use crate::control::config::kube::AnnotationPrefix;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Its `resourceVersion`.
    pub(super) version: String,
    /// Those that are flannel's.
    pub(super) annotations: Annotations,
    /// Its ranges for pods: one, or one of each family.
    pub(super) pod_cidrs: Vec<String>,
    /// The status of its condition NetworkUnavailable.
    pub(super) network_unavailable: Option<String>,
}

impl Node {
    /// Takes what we keep out of `object`.
    pub(super) fn read(object: NodeObject, prefix: &AnnotationPrefix) -> Self {
        let NodeObject { metadata, spec, status, .. } = object;
        let cidrs = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty());
        let pod_cidrs = cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        let condition = conditions.find(|it: &NodeCondition| it.kind == "NetworkUnavailable");
        Self {
            name: metadata.name,
            version: metadata.resource_version,
            annotations: Annotations::read(metadata.annotations.unwrap_or_default(), prefix),
            pod_cidrs: pod_cidrs.into_iter().filter(|cidr| !cidr.is_empty()).collect(),
            network_unavailable: condition.map(|it| it.status),
        }
    }

    /// Whether it is certain that this is an older state of the node than `other`. Versions are
    /// whole numbers that grow, in every API server there is.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let number = |node: &Self| node.version.parse::<u64>().ok();
        number(self).zip(number(other)).is_some_and(|(ours, theirs)| ours < theirs)
    }
}
