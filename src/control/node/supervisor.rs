//! Runs one node once its network is known: lease, backend, then the loop, which announces the node
//! as soon as its rules are in place.

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tracing::{error, info};

use super::error::NodeError;
use super::status::{
    BEAT, CaptureJob, LOOK_TIMEOUT, Loop, NodeFacts, NodeStatus, PING_TIMEOUT, PeerLeases, Report,
    ReportRequest, SharedStatus, Stats,
};
use super::subnet_env::{SubnetEnv, SubnetFile, previous_network};
use crate::control::backend::{Backend, Driver};
use crate::control::conditions::Condition;
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::control::host::findings::{HostFindings, HostWatch, OverlayFacts};
use crate::control::host::firewall::{Firewall, FirewallConfig, Ranges, RuleTool};
use crate::control::subnet::lease::Lease;
use crate::control::subnet::{HeldLease, LeaseUpdate, SubnetManager};
use crate::control::util::systemd::{Watchdog, notify};

/// How long the announcement waits for the rules. iptables may wait many seconds for its lock, and
/// the overlay carries packets meanwhile; `/readyz` says what is missing.
const RULES_PATIENCE: Duration = Duration::from_secs(2);

/// What a node needs, apart from its lease and its backend.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// The overlay.
    pub(crate) network: NetworkConfig,
    /// The subnet we had before.
    pub(crate) previous: Option<Subnets>,
    /// Where subnet.env is to be.
    pub(crate) subnet_file: &'a Path,
    /// The name of the interface that outer packets leave by.
    pub(crate) interface: String,
    /// Which rules to keep on the host.
    pub(crate) firewall: FirewallConfig,
    /// Whether the node is not ready while the registry does not answer.
    pub(crate) needs_registry: bool,
    /// Whether faults of the host are looked for.
    pub(crate) watches_host: bool,
    /// Where the node publishes its status.
    pub(crate) health: &'a SharedStatus,
}

impl Node<'_> {
    /// Joins the overlay and stays in it for as long as it is polled. The lease outlives us, so
    /// that a restart finds it.
    ///
    /// # Errors
    /// [`NodeError`] when no lease can be acquired, the lease is lost, or the backend fails.
    ///
    /// # Cancel safety
    /// Dropping the future stops the backend, which leaves nothing on the host but its files
    /// and the rules.
    pub(crate) async fn live<M: SubnetManager>(
        self,
        mut manager: M,
        driver: Box<dyn Driver>,
    ) -> Result<Infallible, NodeError> {
        self.health.enter("acquiring a lease");
        // Before the lease is written: a second daemon on this host fails here and leaves it alone.
        let before = manager.own_attrs(&self.network, driver.public_ip()).await;
        let (prepared, attrs) = driver.prepare(before.as_ref()).await?;
        let held = manager.acquire(&self.network, attrs).await?;
        let backend = prepared.start(held.lease()).await?;
        self.work(&held, backend).await
    }

    /// Starts to keep the rules. That may take seconds, or longer if a tool fails; peers are served
    /// meanwhile.
    fn start_firewall(&self, lease: &Lease) -> Firewall {
        let ranges = Ranges { network: self.network.v4.network, subnet: lease.subnet };
        let tool = self.rule_tool();
        let network = previous_network(self.subnet_file);
        Firewall::start(self.firewall, tool, ranges, (network, self.previous.map(|it| it.v4)))
    }

    const fn rule_tool(&self) -> RuleTool {
        if self.network.nftables { RuleTool::Nftables } else { RuleTool::Iptables }
    }

    /// Starts to keep subnet.env, which describes the network to the host.
    fn keep_subnet_file(&self, lease: &Lease, mtu: u16) -> SubnetFile {
        let (network, subnet) = (self.network.v4.network, lease.subnet);
        let v6 = self.network.v6.map(|range| range.network).zip(lease.ipv6_subnet);
        let env = SubnetEnv { network, subnet, v6, mtu, ip_masq: self.firewall.ip_masq };
        SubnetFile::keep(self.subnet_file, &env)
    }

    /// Gives the backend its peers' leases, and watches the backend and our lease.
    async fn work<L: HeldLease>(
        &self,
        held: &L,
        mut backend: Box<dyn Backend>,
    ) -> Result<Infallible, NodeError> {
        let own = held.lease();
        let mut report_requests = self.health.report_requests();
        let mut capture_requests = self.health.capture_requests();
        let (updates, mut changes) = mpsc::unbounded_channel();
        let mut keep = pin!(held.keep(backend.attrs(), updates));
        let mut firewall = self.start_firewall(own);
        let mut subnet_file = None;
        let mut peers = PeerLeases::default();
        let host = self.watches_host.then(|| self.watch_host(own, &*backend));
        // Reports that wait for the lease source.
        let mut pings = FuturesUnordered::new();
        let mut is_announced = false;
        let (mut watchdog, mut beats) = (Watchdog::from_env(), interval(BEAT));
        let announce_by = Instant::now() + RULES_PATIENCE;
        loop {
            self.health.beat(Loop::Node);
            self.health.show(status_line(own, &*backend, held.is_reachable()));
            tokio::select! {
                _ = timeout_at(announce_by, firewall.installed()), if subnet_file.is_none() => {
                    subnet_file = Some(self.keep_subnet_file(own, backend.mtu()));
                }
                () = tried(subnet_file.as_mut()), if !is_announced => {
                    announce();
                    held.announced();
                    is_announced = true;
                }
                Some(LeaseUpdate { events, is_complete }) = changes.recv() => {
                    peers.apply(&events);
                    backend.apply(events);
                    if is_complete {
                        backend.synced();
                    }
                }
                Some(request) = report_requests.recv() => {
                    pings.push(measure(held, host.as_ref(), request));
                }
                Some((reply, latency)) = pings.next() => {
                    let host = host.as_ref().map(HostWatch::found).unwrap_or_default();
                    let facts = self.facts(held, latency, peers.clone(), host);
                    let file = subnet_file.as_ref();
                    let report = self.report(held, facts, &*backend, &firewall, file);
                    // The receiver may be dropped by now.
                    drop(reply.send(report));
                }
                () = self.health.check_asked() => backend.check(),
                Some(CaptureJob { request, reply }) = capture_requests.recv() => {
                    let started = backend.capture(&request);
                    // The receiver may be dropped by now: that ends the capture.
                    drop(reply.send(started.map(|capture| (backend.device(), capture))));
                }
                _ = beats.tick() => {}
                () = watchdog.due() => notify(&[NotifyState::Watchdog]),
                failure = backend.failed() => return Err(failure.into()),
                lost = &mut keep => {
                    error!("{lost}: forwarding for {} ends", own.subnet);
                    error!("Lease has been revoked. Shutting down daemon.");
                    return Err(lost.into());
                }
            }
        }
    }

    fn report<L: HeldLease>(
        &self,
        held: &L,
        facts: NodeFacts,
        backend: &dyn Backend,
        firewall: &Firewall,
        subnet_file: Option<&SubnetFile>,
    ) -> Report {
        let lease = held.status();
        let stats = Stats {
            network: self.network.v4.network,
            subnet: held.lease().subnet,
            public_ip: lease.public_ip,
            conflicts: lease.conflicts.clone(),
            mtu: backend.mtu(),
            backend: backend.stats(),
        };
        let not_written = || Condition::Failed("subnet.env is not written yet".to_owned());
        let status = NodeStatus {
            subnet_file: subnet_file.map_or_else(not_written, SubnetFile::state),
            is_reachable: held.is_reachable(),
            needs_registry: self.needs_registry,
            lease,
        };
        status.report(stats, facts, backend, firewall)
    }

    /// Starts to look for what keeps packets of containers from the overlay.
    fn watch_host(&self, lease: &Lease, backend: &dyn Backend) -> HostWatch {
        let (network, subnet) = (self.network.v4.network, lease.subnet);
        let (device, mtu) = (backend.device(), backend.mtu());
        HostWatch::start(OverlayFacts { network, subnet, device, mtu })
    }

    fn facts<L: HeldLease>(
        &self,
        held: &L,
        latency: Option<Duration>,
        peers: PeerLeases,
        host: HostFindings,
    ) -> NodeFacts {
        NodeFacts {
            registry: held.source(),
            is_reachable: held.is_reachable(),
            latency,
            interface: self.interface.clone(),
            host,
            backend: self.network.backend.backend_type().to_string(),
            ipv6_subnet: held.lease().ipv6_subnet,
            rule_tool: self.rule_tool(),
            firewall: self.firewall,
            peers,
        }
    }
}

/// Asks the lease source first, if that is wanted. The other requests do not wait for it.
async fn measure<L: HeldLease>(
    held: &L,
    host: Option<&HostWatch>,
    request: ReportRequest,
) -> (oneshot::Sender<Report>, Option<Duration>) {
    if !request.is_fresh {
        return (request.reply, None);
    }
    let look = async {
        if let Some(host) = host {
            // What was found before is shown if this takes too long.
            let _ = timeout(LOOK_TIMEOUT, host.look_again()).await;
        }
    };
    let (latency, ()) = tokio::join!(timeout(PING_TIMEOUT, held.ping()), look);
    (request.reply, latency.ok().flatten())
}

/// Waits until subnet.env is written, or has failed to be.
async fn tried(subnet_file: Option<&mut SubnetFile>) {
    match subnet_file {
        Some(subnet_file) => subnet_file.tried().await,
        None => std::future::pending().await,
    }
}

/// Notifies systemd that we are ready. A node that cannot write its file still serves its peers.
fn announce() {
    info!("Running backend.");
    info!("Watching for new subnet leases");
    notify(&[NotifyState::Ready]);
}

/// The node's status as one line for `systemctl status`.
fn status_line(lease: &Lease, backend: &dyn Backend, in_touch: bool) -> String {
    let (device, num_peers) = (backend.device(), backend.num_peers());
    let peers = if num_peers == 1 { "peer" } else { "peers" };
    let registry = if in_touch { "" } else { "; registry does not answer, packets go on" };
    format!("{} on {device}, {num_peers} {peers}{registry}", lease.subnet)
}

#[cfg(test)]
mod tests;
