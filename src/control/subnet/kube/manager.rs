//! [`KubeManager`]: the [`SubnetManager`] over the nodes of a cluster.
//!
//! A server that answers is believed. While it does not, the node starts with the state that it
//! saved when it last ran.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::api::{Access, AccessError, ApiClient};
use super::held::{Known, KubeLease};
use super::net_conf::{self, NetConfError};
use super::node::Node;
use super::node_feed::{NodeChange, NodeFeed};
use super::own_node::OwnNode;
use super::pod_cidr::own_subnets;
use super::start::{From, Start, take};
use super::state_file::{State, StateFile};
use crate::control::config::backend::BackendType;
use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::subnet::{AcquireError, SubnetManager};
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;

/// How long the API server may take to answer before the node starts with its saved state.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why Kubernetes mode cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    NetConf(#[from] NetConfError),
}

/// What a [`KubeManager`] needs to know besides the flags of Kubernetes mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KubeSettings<'a> {
    /// Which backend to run, whatever the config says.
    pub(crate) backend: Option<BackendType>,
    /// Where subnet.env is, and so the state.
    pub(crate) subnet_file: &'a Path,
    /// The subnet that it names.
    pub(crate) in_use: Option<Subnets>,
}

/// Leases of the nodes of a cluster.
pub(crate) struct KubeManager<'a> {
    pub(super) config: &'a KubeConfig,
    backend: Option<BackendType>,
    in_use: Option<Subnets>,
    pub(super) network: NetworkConfig,
    pub(super) api: Arc<ApiClient>,
    state: StateFile,
    start: Option<Start>,
}

impl<'a> KubeManager<'a> {
    /// Reads the network config and finds the way to the API server. Sends nothing.
    ///
    /// # Errors
    /// [`KubeError`].
    pub(crate) fn new(
        config: &'a KubeConfig,
        settings: KubeSettings<'_>,
    ) -> Result<Self, KubeError> {
        let KubeSettings { backend, subnet_file, in_use } = settings;
        let network = net_conf::read(&config.net_conf, backend)?;
        let api = Arc::new(ApiClient::new(Access::find(config)?)?);
        let state = StateFile::next_to(subnet_file, &config.prefix);
        Ok(Self { config, backend, in_use, network, api, state, start: None })
    }

    /// The node's name; `None` if the server does not say it in time and there is a state.
    async fn node_name(&self, state: Option<&State>, by: Instant) -> Option<String> {
        let (namespace, name) = match &self.config.node {
            NodeIdentity::Name(name) => return Some(name.clone()),
            NodeIdentity::Pod { namespace, name } => (namespace, name),
        };
        let (mut backoff, mut log) = (Backoff::of_registry(), LogLimit::default());
        loop {
            let asked = self.api.node_of_pod(namespace, name);
            let answer = match state {
                Some(_) => timeout_at(by, asked).await.ok()?,
                None => asked.await,
            };
            let line = match answer {
                Ok(Some(node)) => return Some(node),
                Ok(None) => format!("pod {namespace}/{name} is on no node yet"),
                Err(_) if state.is_some() => return None,
                Err(error) if error.is_not_found() => format!(
                    "pod {namespace}/{name} does not exist: set NODE_NAME, or POD_NAMESPACE and \
                     POD_NAME of this pod"
                ),
                Err(error) => error.to_string(),
            };
            if log.is_due(&line) {
                tracing::warn!("the name of this node is not known yet: {line}; trying again");
            }
            sleep(backoff.delay()).await;
        }
    }

    /// All nodes, ours among them; or the state, if the server does not answer in time.
    async fn find(&self) -> Start {
        tracing::info!("Starting kube subnet manager");
        let by = Instant::now() + FIRST_ANSWER_TIMEOUT;
        let state = self.usable_state();
        let name = self.node_name(state.as_ref(), by).await;
        let state = state.filter(|state| name.as_ref().is_none_or(|name| *name == state.node));
        let name = match (&name, &state) {
            (Some(name), _) => name.clone(),
            (None, Some(state)) => state.node.clone(),
            // The state was of another node.
            (None, None) => self.node_name(None, by).await.unwrap_or_default(),
        };
        let (api, prefix) = (Arc::clone(&self.api), self.config.prefix.clone());
        let own = OwnNode::new(Arc::clone(&api), prefix.clone(), name);
        let mut feed = NodeFeed::start(api, prefix, self.config.queue_depth);
        let mut nodes = BTreeMap::new();
        loop {
            let change = match &state {
                Some(state) => match timeout_at(by, feed.next()).await {
                    Ok(NodeChange::Failed) | Err(_) => {
                        return Start { own, feed, from: From::State(state.clone()) };
                    }
                    Ok(change) => change,
                },
                None => feed.next().await,
            };
            take(change, &own, &mut nodes);
            if own.exists() {
                tracing::info!("Node controller sync successful");
                return Start { own, feed, from: From::List(nodes) };
            }
            if !nodes.is_empty() {
                tracing::warn!(
                    "node {:?} is not among the {} nodes of the cluster: waiting for it; if the name \
                     is wrong, set NODE_NAME",
                    own.name,
                    nodes.len()
                );
            }
        }
    }

    /// The saved state, if it is one of this network.
    fn usable_state(&self) -> Option<State> {
        let state = self.state.load()?;
        let is_ours = match &self.config.node {
            NodeIdentity::Name(name) => *name == state.node,
            NodeIdentity::Pod { .. } => true,
        };
        let node = Node {
            name: state.node.clone(),
            pod_cidrs: vec![state.own.subnet.to_string()],
            ..Node::default()
        };
        (is_ours && own_subnets(&node, &self.network).is_ok()).then_some(state)
    }
}

impl<'a> SubnetManager for KubeManager<'a> {
    type Held = KubeLease<'a>;

    fn name(&self) -> String {
        format!("Kubernetes Subnet Manager - {}", self.config.node)
    }

    async fn config(&mut self, _public_ip: impl AsyncFn() -> Option<Ipv4Addr>) -> NetworkConfig {
        let start = self.find().await;
        if let From::State(state) = &start.from {
            tracing::warn!(
                "{} does not answer: starting with podCIDR {} of node {} and {} peers from {}",
                self.api.url(),
                state.own.subnet,
                state.node,
                state.peers.len(),
                self.state.path().display(),
            );
        }
        self.start = Some(start);
        self.network.clone()
    }

    fn is_reachable(&self) -> bool {
        !matches!(self.start, Some(Start { from: From::State(_), .. }))
    }

    fn public_ip(&self) -> Option<Ipv4Addr> {
        let Start { own, from, .. } = self.start.as_ref()?;
        match from {
            From::State(state) => state.node_public_ip,
            From::List(_) => own.node_public_ip(),
        }
    }

    fn previous(&self) -> Option<Subnets> {
        self.in_use
    }

    async fn own_attrs(
        &mut self,
        _network: &NetworkConfig,
        _public_ip: Ipv4Addr,
    ) -> Option<LeaseAttrs> {
        let Start { own, from, .. } = self.start.as_ref()?;
        match from {
            From::State(state) => Some(state.own.attrs.clone()),
            From::List(_) => own.current()?.annotations.attrs().ok(),
        }
    }

    async fn acquire(
        mut self,
        network: &NetworkConfig,
        attrs: LeaseAttrs,
    ) -> Result<Self::Held, AcquireError> {
        let mut start = match self.start.take() {
            Some(start) => start,
            None => self.find().await,
        };
        let subnets = start.pod_cidr(network).await?;
        let Subnets { v4, v6 } = subnets;
        let lease = Lease { subnet: v4, ipv6_subnet: v6, attrs, expires: None };
        tracing::info!("node {} has podCIDR {v4}", start.own.name);
        if matches!(start.from, From::List(_)) {
            let state = self.usable_state();
            let had_it = state.is_some_and(|state| state.own.subnets() == subnets);
            start.annotate(&lease.attrs, had_it).await;
        }
        let known = match start.from {
            From::State(state) => Known::Saved(state.peers),
            From::List(nodes) => Known::Listed(nodes.into_values().collect()),
        };
        Ok(KubeLease::new(
            (self.config, self.backend, network.clone()),
            (start.own, start.feed, known),
            lease,
            self.state,
        ))
    }
}
