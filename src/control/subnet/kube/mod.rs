//! Leases from Kubernetes: a node's lease is its `podCIDR`, and annotations say the rest.
//!
//! ```text
//! api/          four requests, and who we are to the API server
//! node_feed     the list and the watch of all nodes ─► NodeChange
//! manager       which node we are, and all others ─► Start
//! start         our podCIDR, our annotations ─► KubeLease
//! held          keeps annotations and condition; peers ─► LeaseUpdate
//! ```
//!
//! Nothing is allocated and nothing expires. What is written are annotations and a condition of our
//! own node, by patches of its status. The network config is a file. Behaves as flannel's
//! `pkg/subnet/kube`, but for what docs/adr/0032-kubernetes.md lists.

pub(crate) mod api;
mod annotations;
pub(crate) mod check;
mod condition;
pub(crate) mod held;
pub(crate) mod manager;
pub(crate) mod net_conf;
mod node;
mod node_feed;
mod own_node;
mod peers;
mod pod_cidr;
mod start;
mod state_file;
#[cfg(test)]
mod tests;
