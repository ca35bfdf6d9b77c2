//! [`Start`]: a node from its first answer to its lease: its podCIDR, its annotations.

use std::collections::BTreeMap;

use super::node::Node;
use super::node_feed::{NodeChange, NodeFeed};
use super::own_node::{OwnNode, Pace};
use super::pod_cidr::own_subnets;
use super::state_file::State;
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::control::subnet::AcquireError;
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::log_limit::LogLimit;

/// How often the API server may refuse our annotations before a node that has had its lease goes on
/// without.
const MAX_FAILURES: u32 = 3;

/// What a node starts from.
pub(super) struct Start {
    pub(super) own: OwnNode,
    pub(super) feed: NodeFeed,
    pub(super) from: From,
}

pub(super) enum From {
    /// What it knew when it last ran.
    State(State),
    /// What the API server has.
    List(BTreeMap<String, Node>),
}

/// Takes over a change.
pub(super) fn take(change: NodeChange, own: &OwnNode, nodes: &mut BTreeMap<String, Node>) {
    match change {
        NodeChange::Listed(listed) => {
            *nodes = listed.into_iter().map(|node| (node.name.clone(), node)).collect();
            own.list(nodes.get(&own.name).cloned());
        }
        NodeChange::Put(node) => {
            if node.name == own.name {
                own.see(Some((*node).clone()));
            }
            nodes.insert(node.name.clone(), *node);
        }
        NodeChange::Deleted(name) => {
            if name == own.name {
                own.see(None);
            }
            nodes.remove(&name);
        }
        NodeChange::Reachable | NodeChange::Failed => {}
    }
}

impl Start {
    /// Our podCIDR as soon as there is one. Waits for ever if need be.
    pub(super) async fn pod_cidr(
        &mut self,
        network: &NetworkConfig,
    ) -> Result<Subnets, AcquireError> {
        let nodes = match &mut self.from {
            From::State(state) => return Ok(state.own.subnets()),
            From::List(nodes) => nodes,
        };
        let mut log = LogLimit::default();
        loop {
            if let Some(node) = self.own.current() {
                let found = own_subnets(&node, network);
                match found.map_err(|error| AcquireError(error.into()))? {
                    Some(subnets) => return Ok(subnets),
                    None if log.is_due("podCIDR") => tracing::warn!(
                        "node {:?} has no podCIDR yet: waiting for the controller manager to assign \
                         one, which it does with --allocate-node-cidrs and --cluster-cidr={}",
                        node.name,
                        network.v4.network
                    ),
                    None => {}
                }
            }
            take(self.feed.next().await, &self.own, nodes);
        }
    }

    /// Writes our annotations. Waits for ever if need be, unless we had this lease before.
    pub(super) async fn annotate(&self, attrs: &LeaseAttrs, had_it: bool) {
        let (mut pace, mut num_failures) = (Pace::new(), 0);
        loop {
            let Err(error) = self.own.annotate(attrs).await else { return };
            self.own.complain("annotations", &error);
            num_failures += 1;
            if had_it && num_failures >= MAX_FAILURES && error.is_unreachable() {
                return;
            }
            pace.pause(error.retry_after()).await;
        }
    }
}
