//! [`KernelForwarding`]: the running backend around the reconciler.

use std::collections::BTreeMap;

use futures_util::future::LocalBoxFuture;
use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::host::PeerHost;
use super::reconciler::{Command, PeerReconciler};
use super::tables::Links;
use crate::control::backend::reconciler_task::ReconcilerTask;
use crate::control::backend::{Backend, BackendError};
use crate::control::conditions::Conditions;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};

/// What names a backend whose packets the kernel forwards, and does not change while it runs.
#[derive(Debug)]
pub struct Fixed {
    /// `BackendType` of the peers' leases.
    pub kind: &'static str,
    /// The device that packets leave by.
    pub device: String,
    /// MTU of the overlay, in bytes.
    pub mtu: u16,
    /// What our lease is to say of us.
    pub attrs: watch::Receiver<LeaseAttrs>,
    /// The log line for a lease of another backend.
    pub ignored: fn(&Lease) -> String,
}

/// A running backend whose packets the kernel forwards: hands the peers' leases to the reconciler.
/// Dropping it ends the reconciler and keeps the kernel's entries, so that packets keep flowing.
#[derive(Debug)]
pub struct KernelForwarding {
    fixed: Fixed,
    /// Whether each lease known is one of our kind.
    leases: BTreeMap<Ipv4Network, bool>,
    commands: mpsc::UnboundedSender<Command>,
    reconciler: ReconcilerTask,
}

impl KernelForwarding {
    /// Starts the reconciler of `host` with these `conditions`, on the task set that `run` is
    /// given.
    pub fn start<H: PeerHost + Send + 'static>(
        fixed: Fixed,
        host: H,
        links: Links,
        conditions: Conditions,
        run: impl FnOnce(&mut JoinSet<()>, PeerReconciler<H>),
    ) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let reconciler = ReconcilerTask::start(conditions, |tasks, sender| {
            run(tasks, PeerReconciler::new(host, links, receiver, sender));
        });
        Self { fixed, leases: BTreeMap::new(), commands, reconciler }
    }

    /// The lease if its node is a peer. One of another backend is none: stock compares the type
    /// letter by letter, and so do we.
    fn peers_lease(&mut self, lease: Lease) -> LeaseEvent {
        let kind = lease.attrs.backend_type.as_deref();
        let is_ours = kind == Some(self.fixed.kind);
        let before = self.leases.insert(lease.subnet, is_ours);
        if is_ours {
            return LeaseEvent::Added(lease);
        }
        // Once, and not again at each renewal.
        if before != Some(false) {
            tracing::warn!("{}", (self.fixed.ignored)(&lease));
        }
        LeaseEvent::Removed(lease.subnet)
    }
}

impl Backend for KernelForwarding {
    fn mtu(&self) -> u16 {
        self.fixed.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        let events = events.into_iter().map(|event| match event {
            LeaseEvent::Added(lease) => self.peers_lease(lease),
            LeaseEvent::Removed(subnet) => {
                self.leases.remove(&subnet);
                LeaseEvent::Removed(subnet)
            }
        });
        let events = events.collect();
        // The reconciler ends with us.
        drop(self.commands.send(Command::Apply(events)));
    }

    fn synced(&mut self) {
        drop(self.commands.send(Command::Synced));
    }

    fn failed(&mut self) -> LocalBoxFuture<'_, BackendError> {
        self.reconciler.failed()
    }

    fn conditions(&self) -> Conditions {
        self.reconciler.conditions()
    }

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.fixed.attrs.clone())
    }

    fn device(&self) -> String {
        self.fixed.device.clone()
    }

    /// Peers of our kind.
    fn num_peers(&self) -> usize {
        self.leases.values().filter(|is_ours| **is_ours).count()
    }
}
