//! What `--config-check` and `flanneld doctor` ask of the cluster. Nothing is written.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::timeout;

use super::api::{ApiError, Freshness};
use super::manager::KubeManager;
use super::node::Node;
use super::peers::lease_of;
use super::pod_cidr::own_subnets;
use crate::control::config::kube::NodeIdentity;
use crate::control::config::network::NetworkConfig;
use crate::control::subnet::lease::Lease;

/// What the cluster says of this node.
#[derive(Debug, Default)]
pub(crate) struct ClusterView {
    /// Our podCIDR, and whose it is.
    pub(crate) subnet: Option<String>,
    /// What takes the place of `--public-ip`.
    pub(crate) public_ip: Option<Ipv4Addr>,
    /// The leases of all nodes.
    pub(crate) leases: Vec<Lease>,
    /// Nodes that do not read, a line each.
    pub(crate) malformed: Vec<String>,
    /// Why there is no answer.
    pub(crate) fault: Option<String>,
    /// Why this node would not start, or would have to wait: a line each.
    pub(crate) problems: Vec<String>,
}

impl KubeManager<'_> {
    /// Where the config and the leases are.
    pub(crate) fn source(&self) -> String {
        format!(
            "Kubernetes API server {}, config in {}",
            self.api.url(),
            self.config.net_conf.display()
        )
    }

    /// The network config.
    pub(crate) const fn network(&self) -> &NetworkConfig {
        &self.network
    }

    /// Asks the API server, each time for no longer than `limit`.
    pub(crate) async fn look(&self, limit: Duration) -> ClusterView {
        let mut view = ClusterView::default();
        let asked = async {
            let name = match &self.config.node {
                NodeIdentity::Name(name) => Some(name.clone()),
                NodeIdentity::Pod { namespace, name } => {
                    self.api.node_of_pod(namespace, name).await?
                }
            };
            let mut nodes = Vec::new();
            let sink = |object| nodes.push(Node::read(object, &self.config.prefix));
            self.api.list_nodes(Freshness::Any, sink).await?;
            Ok::<_, ApiError>((name, nodes))
        };
        let url = self.api.url();
        let (name, nodes) = match timeout(limit, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                view.fault = Some(error.to_string());
                return view;
            }
            Err(_) => {
                view.fault = Some(format!("{url} does not answer within {limit:?}"));
                return view;
            }
        };
        let name = name.unwrap_or_default();
        match nodes.iter().find(|node| node.name == name) {
            Some(node) => self.describe(node, &mut view),
            None => view.problems.push(format!(
                "node {name:?} is not among the {} nodes of the cluster: set NODE_NAME",
                nodes.len()
            )),
        }
        for node in &nodes {
            match lease_of(node) {
                Ok(lease) => view.leases.extend(lease),
                Err(reason) if reason.starts_with("node ") => view.malformed.push(reason),
                Err(reason) => view.malformed.push(format!("node {:?}: {reason}", node.name)),
            }
        }
        view
    }

    fn describe(&self, node: &Node, view: &mut ClusterView) {
        match node.annotations.node_public_ip() {
            Ok(public_ip) => view.public_ip = public_ip,
            Err(error) => view.problems.push(format!("node {:?}: {error}", node.name)),
        }
        match own_subnets(node, &self.network) {
            Ok(Some(subnets)) => {
                view.subnet = Some(format!("{}, the podCIDR of node {}", subnets.v4, node.name));
            }
            Ok(None) => view.problems.push(format!(
                "node {:?} has no podCIDR: run the controller manager with --allocate-node-cidrs \
                 and --cluster-cidr={}",
                node.name, self.network.v4.network
            )),
            Err(error) => view.problems.push(error.to_string()),
        }
    }
}
