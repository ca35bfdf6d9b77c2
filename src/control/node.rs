//! One node's life once it knows its network: lease, backend, and then the loop, which announces
//! the node as soon as its rules are in place.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use sd_notify::NotifyState;
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::DaemonError;
use super::acquire::acquire_lease;
use super::backend::{Backend, BackendStats};
use super::config::NetworkConfig;
use super::firewall::{Firewall, FirewallConfig, Ranges, RuleTool};
use super::health::Health;
use super::lease::Lease;
use super::registry::Registry;
use super::renew::keep_lease;
use super::subnet_file::SubnetEnv;
use super::systemd::{Status, Watchdog, notify};
use super::watch::follow_leases;
use crate::routes::Subnet;

/// What a node's life depends on.
#[derive(Debug)]
pub(super) struct Node<'a, R> {
    /// Keeps our lease and everybody else's.
    pub(super) registry: &'a R,
    /// The overlay.
    pub(super) network: NetworkConfig,
    /// The subnet we had before.
    pub(super) previous: Option<Subnet>,
    /// Where subnet.env is to be.
    pub(super) subnet_file: &'a Path,
    /// How long before its expiry the lease is renewed.
    pub(super) renew_margin: Duration,
    /// Which rules to keep on the host.
    pub(super) firewall: FirewallConfig,
    /// Is told when we are ready, and asks for statistics.
    pub(super) health: &'a Health,
}

/// What `/stats` serves.
#[derive(Debug, Serialize)]
struct Stats {
    #[serde(serialize_with = "as_text")]
    network: Subnet,
    #[serde(serialize_with = "as_text")]
    subnet: Subnet,
    public_ip: Ipv4Addr,
    mtu: u16,
    #[serde(flatten)]
    backend: BackendStats,
}

impl<R: Registry> Node<'_, R> {
    /// Joins the overlay and stays in it for as long as it is polled. The lease outlives us, so
    /// that a restart finds it.
    ///
    /// # Errors
    /// [`DaemonError`] when there is no lease to be had, it is lost, or the backend fails.
    ///
    /// # Cancel safety
    /// Dropping the future stops the backend, which leaves nothing on the host but subnet.env and
    /// the rules.
    pub(super) async fn live<B: Backend>(self, setup: B::Setup) -> Result<Infallible, DaemonError> {
        let attrs = B::attrs(&setup);
        let lease = acquire_lease(self.registry, &self.network, &attrs, self.previous).await?;
        let backend = B::start(setup, &lease).await?;
        self.work(&lease, backend).await
    }

    /// Starts to keep the rules. It takes a while, and longer where something is amiss; peers are
    /// served meanwhile.
    fn start_firewall(&self, lease: &Lease) -> Firewall {
        let ranges = Ranges { network: self.network.network, subnet: lease.subnet };
        let tool = if self.network.nftables { RuleTool::Nftables } else { RuleTool::Iptables };
        Firewall::start(self.firewall, tool, ranges, self.previous)
    }

    /// Tells the host what its network is, and systemd that we are ready. A node that cannot write
    /// its file still serves its peers.
    fn announce(&self, lease: &Lease, mtu: u16) {
        let (network, subnet) = (self.network.network, lease.subnet);
        let env = SubnetEnv { network, subnet, mtu, ip_masq: self.firewall.ip_masq };
        match env.write(self.subnet_file) {
            Ok(()) => {
                info!("Wrote subnet file to {}", self.subnet_file.display());
                self.health.set_ready();
                info!("flannel is ready");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(error, "Failed to write subnet file: this node will never be ready");
            }
        }
        info!("Running backend.");
        info!("Watching for new subnet leases");
        notify(&[NotifyState::Ready]);
    }

    /// Feeds the backend with its peers' leases, and watches over it and over our lease.
    async fn work<B: Backend>(
        &self,
        lease: &Lease,
        mut backend: B,
    ) -> Result<Infallible, DaemonError> {
        let mut stats_requests = self.health.stats_requests();
        // Unbounded, yet never long: it is filled and emptied by this one task, turn by turn.
        let (sink, mut changes) = mpsc::unbounded_channel();
        let (in_touch, mut touch) = watch::channel(true);
        let mut follow = pin!(follow_leases(self.registry, lease.subnet, in_touch, |events| {
            drop(sink.send(events));
        }));
        let mut keep = pin!(keep_lease(self.registry, lease, self.renew_margin));
        let mut firewall = self.start_firewall(lease);
        let mut is_announced = false;
        let (mut status, mut watchdog) = (Status::default(), Watchdog::from_env());
        loop {
            status.show(status_line(lease, &backend, *touch.borrow_and_update()));
            tokio::select! {
                () = firewall.installed(), if !is_announced => {
                    self.announce(lease, backend.mtu());
                    is_announced = true;
                }
                Some(events) = changes.recv() => backend.apply(events),
                Some(request) = stats_requests.recv() => {
                    // Whoever asked may be gone by now.
                    drop(request.send(self.stats(lease, &backend)));
                }
                Ok(()) = touch.changed() => {}
                () = watchdog.due() => notify(&[NotifyState::Watchdog]),
                failure = backend.failed() => return Err(failure.into()),
                lost = &mut keep => {
                    error!("Lease has been revoked. Shutting down daemon.");
                    return Err(lost.into());
                }
                never = &mut follow => match never {},
            }
        }
    }

    fn stats<B: Backend>(&self, lease: &Lease, backend: &B) -> String {
        let stats = Stats {
            network: self.network.network,
            subnet: lease.subnet,
            public_ip: lease.attrs.public_ip,
            mtu: backend.mtu(),
            backend: backend.stats(),
        };
        // Writing to memory fails only for maps with keys that are no text; there are none here.
        serde_json::to_string(&stats).unwrap_or_default()
    }
}

/// How the node is, in one line for `systemctl status`.
fn status_line<B: Backend>(lease: &Lease, backend: &B, in_touch: bool) -> String {
    let BackendStats { device, num_peers, .. } = backend.stats();
    let peers = if num_peers == 1 { "peer" } else { "peers" };
    let etcd = if in_touch { "" } else { "; etcd does not answer, packets go on" };
    format!("{} on {device}, {num_peers} {peers}{etcd}", lease.subnet)
}

fn as_text<S: Serializer>(subnet: &Subnet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(subnet)
}

#[cfg(test)]
mod tests;
