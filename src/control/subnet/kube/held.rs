//! [`KubeLease`]: our podCIDR, with annotations and condition kept, and the leases of all others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::condition::keep_condition;
use super::net_conf;
use super::node::Node;
use super::node_feed::{NodeChange, NodeFeed};
use super::own_node::OwnNode;
use super::peers::Peers;
use super::pod_cidr::subnets_of;
use super::state_file::{Recorder, StateFile};
use crate::control::config::backend::BackendType;
use crate::control::config::kube::KubeConfig;
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::control::subnet::contact::Contact;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::subnet::{HeldLease, LeaseLost, LeaseStatus, LeaseUpdate};

/// Our lease.
pub(crate) struct KubeLease<'a> {
    config: &'a KubeConfig,
    backend: Option<BackendType>,
    network: NetworkConfig,
    own: OwnNode,
    lease: Lease,
    state: StateFile,
    /// Until it is kept.
    start: RefCell<Option<(NodeFeed, Known)>>,
    peers: RefCell<Peers>,
    contact: RefCell<Contact>,
    announced: watch::Sender<bool>,
    /// Whether a list had all nodes since we started.
    is_listed: Cell<bool>,
    public_ip: Cell<Ipv4Addr>,
}

/// What is known of all nodes at the start.
pub(super) enum Known {
    /// Leases of an earlier run.
    Saved(BTreeMap<String, Lease>),
    /// All nodes.
    Listed(Vec<Node>),
}

impl<'a> KubeLease<'a> {
    pub(super) fn new(
        (config, backend, network): (&'a KubeConfig, Option<BackendType>, NetworkConfig),
        (own, feed, known): (OwnNode, NodeFeed, Known),
        lease: Lease,
        state: StateFile,
    ) -> Self {
        let public_ip = lease.attrs.public_ip();
        let peers = Peers::new(own.name.clone(), lease.subnets(), public_ip);
        let is_reachable = matches!(known, Known::Listed(_));
        Self {
            config,
            backend,
            network,
            own,
            lease,
            state,
            start: RefCell::new(Some((feed, known))),
            peers: RefCell::new(peers),
            contact: RefCell::new(Contact::new(is_reachable)),
            announced: watch::Sender::new(false),
            is_listed: Cell::new(is_reachable),
            public_ip: Cell::new(public_ip),
        }
    }

    /// Follows the nodes until ours has another podCIDR.
    async fn follow(
        &self,
        mut feed: NodeFeed,
        known: Known,
        mut attrs: watch::Receiver<LeaseAttrs>,
        updates: mpsc::UnboundedSender<LeaseUpdate>,
    ) -> LeaseLost {
        let mut recorder = Recorder::new(&self.state);
        let send = |events: Vec<LeaseEvent>, is_complete| {
            drop(updates.send(LeaseUpdate { events, is_complete }));
        };
        match known {
            Known::Saved(peers) => send(self.peers.borrow_mut().restore(peers), false),
            Known::Listed(nodes) => send(self.peers.borrow_mut().replace(&nodes, true), true),
        }
        recorder.schedule();
        loop {
            tokio::select! {
                change = feed.next() => {
                    let update = match self.take(change) {
                        Ok(update) => update,
                        Err(lost) => return lost,
                    };
                    if let Some(events) = update {
                        recorder.schedule();
                        send(events, self.is_listed.get());
                    }
                }
                Ok(()) = attrs.changed() => {
                    self.lease_says(&attrs.borrow_and_update());
                    recorder.schedule();
                }
                () = recorder.due() => {
                    let own = Lease { attrs: attrs.borrow().clone(), ..self.lease.clone() };
                    let node = (self.own.name.as_str(), self.own.node_public_ip());
                    recorder.write(node, &own, self.peers.borrow().all());
                }
            }
        }
    }

    /// Takes over a change; what it is to the backend, if it is anything.
    fn take(&self, change: NodeChange) -> Result<Option<Vec<LeaseEvent>>, LeaseLost> {
        let mut peers = self.peers.borrow_mut();
        self.contact.borrow_mut().reachable(!matches!(change, NodeChange::Failed));
        match change {
            NodeChange::Listed(nodes) => {
                let own = nodes.iter().find(|node| node.name == self.own.name);
                // A list without our own node is that of a server that has lost its memory, or of
                // a cluster that we no longer belong to. Packets go on in both.
                let is_complete = own.is_some();
                self.see(own, true)?;
                self.is_listed.set(self.is_listed.get() || is_complete);
                Ok(Some(peers.replace(&nodes, is_complete)))
            }
            NodeChange::Put(node) if node.name == self.own.name => {
                self.see(Some(&node), false)?;
                Ok(None)
            }
            NodeChange::Put(node) => Ok(unless_empty(peers.observe(&node))),
            NodeChange::Deleted(name) if name == self.own.name => {
                self.see(None, false)?;
                Ok(None)
            }
            NodeChange::Deleted(name) => Ok(unless_empty(peers.delete(&name))),
            NodeChange::Reachable | NodeChange::Failed => Ok(None),
        }
    }

    /// Takes over the state of our own node.
    fn see(&self, node: Option<&Node>, is_listed: bool) -> Result<(), LeaseLost> {
        match (node, self.own.exists()) {
            (None, _) => {
                let line = format!(
                    "node {:?} is not in the cluster: packets go on, and so will the rest when it \
                     is back",
                    self.own.name
                );
                if self.contact.borrow_mut().warnings.insert("node", line.clone()).is_none() {
                    tracing::warn!("{line}");
                }
            }
            (Some(_), _) => {
                if self.contact.borrow_mut().warnings.remove("node").is_some() {
                    tracing::info!("node {:?} is in the cluster again", self.own.name);
                }
            }
        }
        if is_listed {
            self.own.list(node.cloned());
        } else {
            self.own.see(node.cloned());
        }
        let found = node.map(subnets_of).and_then(Result::ok).flatten();
        let node = || self.own.name.clone();
        match found {
            Some(Subnets { v4, .. }) if v4 != self.lease.subnet => {
                let (subnet, new) = (self.lease.subnet.into(), v4.into());
                Err(LeaseLost::Renumbered { subnet, node: node(), new })
            }
            Some(Subnets { v6, .. }) => match self.lease.ipv6_subnet.zip(v6) {
                Some((subnet, new)) if subnet != new => {
                    let (subnet, new) = (subnet.into(), new.into());
                    Err(LeaseLost::Renumbered { subnet, node: node(), new })
                }
                Some(_) | None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn lease_says(&self, attrs: &LeaseAttrs) {
        self.public_ip.set(attrs.public_ip());
        self.peers.borrow_mut().follow(attrs.public_ip());
    }
}

/// Peers that do not change are nothing to the backend.
fn unless_empty(events: Vec<LeaseEvent>) -> Option<Vec<LeaseEvent>> {
    (!events.is_empty()).then_some(events)
}

impl HeldLease for KubeLease<'_> {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn keep(
        &self,
        attrs: Option<watch::Receiver<LeaseAttrs>>,
        updates: mpsc::UnboundedSender<LeaseUpdate>,
    ) -> LeaseLost {
        let Some((feed, known)) = self.start.take() else { return std::future::pending().await };
        let (_fixed, attrs) = match attrs {
            Some(attrs) => (None, attrs),
            None => {
                let (fixed, attrs) = watch::channel(self.lease.attrs.clone());
                (Some(fixed), attrs)
            }
        };
        let warn = |what| move |warning| self.contact.borrow_mut().warn(what, warning);
        let condition = async {
            match self.config.sets_condition {
                true => {
                    let announced = self.announced.subscribe();
                    keep_condition(&self.own, announced, warn("condition")).await
                }
                false => std::future::pending().await,
            }
        };
        let annotations = self.own.keep_annotations(attrs.clone(), warn("annotations"));
        let config = &self.config.net_conf;
        let config = net_conf::follow(config, self.backend, &self.network, warn("config"));
        let (mut condition, mut annotations) = (pin!(condition), pin!(annotations));
        let mut config = pin!(config);
        tokio::select! {
            lost = self.follow(feed, known, attrs, updates) => lost,
            never = &mut annotations => match never {},
            never = &mut condition => match never {},
            never = &mut config => match never {},
        }
    }

    fn announced(&self) {
        self.announced.send_replace(true);
    }

    fn is_reachable(&self) -> bool {
        self.contact.borrow().is_reachable
    }

    fn status(&self) -> LeaseStatus {
        let (contact, peers) = (self.contact.borrow(), self.peers.borrow());
        let node = self.own.current();
        let public_ip = node.map_or(self.public_ip.get(), |node| {
            node.annotations.public_ip_overwrite().ok().flatten().unwrap_or(self.public_ip.get())
        });
        LeaseStatus {
            public_ip,
            expires: None,
            is_gone: contact.warnings.contains_key("node"),
            renewals: 0,
            reconnects: contact.reconnects,
            num_malformed: peers.num_malformed(),
            conflicts: peers.conflicts(),
            rival: None,
            warnings: contact.warnings.clone(),
        }
    }

    fn source(&self) -> String {
        format!("nodes of the Kubernetes API server {}", self.own.api().url())
    }

    async fn ping(&self) -> Option<Duration> {
        let asked = Instant::now();
        self.own.api().ping().await.ok().map(|()| asked.elapsed())
    }
}
