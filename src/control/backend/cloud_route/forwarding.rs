//! [`CloudRoute`]: the running backend around the reconciler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use ipnetwork::Ipv4Network;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::reconciler::{RouteReconciler, pending};
use super::{Cloud, Wanted};
use crate::control::backend::peer_routes::Underlay;
use crate::control::backend::reconciler_task::ReconcilerTask;
use crate::control::backend::{Backend, BackendError};
use crate::control::conditions::Conditions;
use crate::control::host::net::Netlink;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};

/// A running cloud backend. Dropping it ends the reconciler and keeps the route, so that packets
/// keep flowing.
#[derive(Debug)]
pub(super) struct CloudRoute {
    device: String,
    mtu: u16,
    attrs: watch::Receiver<LeaseAttrs>,
    /// Whether each lease known is one of a node that the cloud has a route to.
    leases: BTreeMap<Ipv4Network, bool>,
    asked: Arc<Notify>,
    reconciler: ReconcilerTask,
}

impl CloudRoute {
    /// Starts the reconciler of the `wanted` route.
    pub(super) fn start<C: Cloud>(
        (device, mtu): (String, u16),
        wanted: Wanted,
        cloud: C,
        (net, underlay): (Netlink, Underlay),
    ) -> Self {
        let (attrs, asked) = (underlay.attrs(), Arc::new(Notify::new()));
        let notified = Arc::clone(&asked);
        let reconciler = ReconcilerTask::start(pending(), |tasks, sender| {
            let host = (net, underlay);
            tasks.spawn(RouteReconciler::new(cloud, wanted, host, notified, sender).run());
        });
        Self { device, mtu, attrs, leases: BTreeMap::new(), asked, reconciler }
    }

    /// Waits until the route is in place or has failed to be, but not for longer than `limit`.
    pub(super) async fn attempted(&mut self, limit: Duration) {
        self.reconciler.reported(limit).await;
    }

    /// Whether the cloud has a route to the holder of `lease`. Nodes of stock's cloud backends
    /// write no type, as those of udp.
    fn learn(&mut self, lease: &Lease) {
        let kind = lease.attrs.backend_type.as_deref();
        let (subnet, host) = (lease.subnet, lease.attrs.public_ip());
        match (self.leases.insert(subnet, kind.is_none()), kind) {
            (before, Some(kind)) if before != Some(false) => {
                warn!("{host} has leased {subnet} for {kind}: the cloud has no route to it");
            }
            (None | Some(false), None) => info!("Subnet added: {subnet}"),
            (Some(_), _) | (None, Some(_)) => {}
        }
    }
}

impl Backend for CloudRoute {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        for event in events {
            match event {
                LeaseEvent::Added(lease) => self.learn(&lease),
                LeaseEvent::Removed(subnet) => {
                    if self.leases.remove(&subnet).is_some() {
                        info!("Subnet removed: {subnet}");
                    }
                }
            }
        }
    }

    fn check(&mut self) {
        self.asked.notify_one();
    }

    fn failed(&mut self) -> LocalBoxFuture<'_, BackendError> {
        self.reconciler.failed()
    }

    fn conditions(&self) -> Conditions {
        self.reconciler.conditions()
    }

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.attrs.clone())
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn num_peers(&self) -> usize {
        self.leases.values().filter(|has_route| **has_route).count()
    }
}
