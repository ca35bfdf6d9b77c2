//! [`PeerRoutes`]: the running reconciler, as its backend holds it.

use std::collections::BTreeMap;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::reconciler::{Command, PeerHost, PeerReconciler};
use super::tables::Links;
use crate::control::backend::BackendError;
use crate::control::conditions::Conditions;
use crate::control::subnet::lease::LeaseEvent;

/// Hands the leases of one kind of node to the reconciler. Dropping it ends the reconciler and
/// leaves the kernel's entries, so that packets go on.
#[derive(Debug)]
pub struct PeerRoutes {
    /// `BackendType` of the peers.
    kind: &'static str,
    /// Whether each lease known is one of ours.
    leases: BTreeMap<Ipv4Network, bool>,
    commands: mpsc::UnboundedSender<Command>,
    conditions: watch::Receiver<Conditions>,
    tasks: JoinSet<()>,
}

impl PeerRoutes {
    /// Starts the reconciler of `host`, whose leases say `kind`, with these `conditions`.
    pub fn start<H: PeerHost + Send + 'static>(
        kind: &'static str,
        host: H,
        links: Links,
        conditions: Conditions,
        run: impl FnOnce(&mut JoinSet<()>, PeerReconciler<H>),
    ) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, conditions) = watch::channel(conditions);
        let mut tasks = JoinSet::new();
        run(&mut tasks, PeerReconciler::new(host, links, receiver, sender));
        Self { kind, leases: BTreeMap::new(), commands, conditions, tasks }
    }

    /// Takes over changes in the peers' leases. One of another kind of backend is no peer: stock
    /// compares the type letter by letter, and so do we.
    pub fn apply(&mut self, events: Vec<LeaseEvent>) {
        let events = events.into_iter().map(|event| match event {
            LeaseEvent::Added(lease) => {
                let kind = lease.attrs.backend_type.as_deref();
                let is_ours = kind == Some(self.kind);
                let before = self.leases.insert(lease.subnet, is_ours);
                if is_ours {
                    return LeaseEvent::Added(lease);
                }
                // Once, and not again at each renewal.
                if before != Some(false) {
                    tracing::warn!(
                        "ignoring non-{} subnet {} of {}: type={}",
                        self.kind,
                        lease.subnet,
                        lease.attrs.public_ip,
                        kind.unwrap_or_default(),
                    );
                }
                LeaseEvent::Removed(lease.subnet)
            }
            LeaseEvent::Removed(subnet) => {
                self.leases.remove(&subnet);
                LeaseEvent::Removed(subnet)
            }
        });
        // The reconciler ends with us.
        drop(self.commands.send(Command::Apply(events.collect())));
    }

    /// The registry has listed every lease: what none of them asks for may go.
    pub fn synced(&self) {
        drop(self.commands.send(Command::Synced));
    }

    /// Peers of our kind.
    pub fn num_peers(&self) -> usize {
        self.leases.values().filter(|is_ours| **is_ours).count()
    }

    /// How device, interface and entries are, now and at every change.
    pub fn conditions(&self) -> watch::Receiver<Conditions> {
        self.conditions.clone()
    }

    /// Waits until the reconciler ends, which it does by a panic alone.
    pub async fn failed(&mut self) -> BackendError {
        match self.tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => BackendError::Panicked,
            Some(_) | None => std::future::pending().await,
        }
    }
}
