//! One node's life once it knows its network: lease, backend, and then the loop, which announces
//! the node as soon as its rules are in place.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use super::error::NodeError;
use super::state_file::{Past, Recorder, StateFile};
use super::status::{BEAT, Loop, NodeStatus, SharedStatus, Stats};
use super::subnet_env::{SubnetEnv, SubnetFile, previous_network};
use crate::control::backend::{Backend, Driver};
use crate::control::config::backend::BackendType;
use crate::control::config::network::NetworkConfig;
use crate::control::host::firewall::{Firewall, FirewallConfig, Ranges, RuleTool};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::kv::acquire::{
    AcquireError, Acquired, acquire_from, choose_own, list_leases,
};
use crate::control::subnet::kv::config_follow::follow_config;
use crate::control::subnet::kv::config_wait::POLL_INTERVAL;
use crate::control::subnet::kv::conflicts::Claim;
use crate::control::subnet::kv::list_watch::{Known, News, follow_leases};
use crate::control::subnet::kv::registry::{Registry, Snapshot, TtlLease};
use crate::control::subnet::kv::renew::{AnnounceCauses, KeepPolicy, keep_lease_saying};
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::util::log_limit::LogLimit;
use crate::control::util::systemd::{Watchdog, notify};

/// How long the registry may take to list all leases before we start with what we remember.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the registry may fail to give us a lease before we start with what we remember.
const MAX_FAILURES: u32 = 3;

/// How long the announcement waits for the rules. iptables may wait for its lock for many seconds,
/// or fail as slowly; the overlay carries packets meanwhile, and `/readyz` says what is missing.
const RULES_PATIENCE: Duration = Duration::from_secs(2);

/// Pause after an expiry could not be given back. It strikes by itself within a day.
const RELEASE_INTERVAL: Duration = Duration::from_secs(60);

/// What a node's life depends on.
#[derive(Debug)]
pub(crate) struct Node<'a, R> {
    /// Keeps our lease and everybody else's.
    pub(crate) registry: &'a R,
    /// The overlay.
    pub(crate) network: NetworkConfig,
    /// Which backend to run, whatever the config says.
    pub(crate) backend_override: Option<BackendType>,
    /// The text of its config.
    pub(crate) config_text: &'a str,
    /// The subnet we had before.
    pub(crate) previous: Option<Ipv4Network>,
    /// The subnet that subnet.env names.
    pub(crate) in_use: Option<Ipv4Network>,
    /// The live host with our public IP, whose lease we left alone.
    pub(crate) rival: Option<HostId>,
    /// What to start with while the registry is away.
    pub(crate) past: Option<Past>,
    /// Keeps what the next start may need.
    pub(crate) state: &'a StateFile,
    /// Where subnet.env is to be.
    pub(crate) subnet_file: &'a Path,
    /// How the lease is kept.
    pub(crate) keep: KeepPolicy,
    /// Which rules to keep on the host.
    pub(crate) firewall: FirewallConfig,
    /// Asks how we are.
    pub(crate) health: &'a SharedStatus,
}

/// What a node starts from.
enum Start {
    /// What it knew when it last ran.
    Remembered(Past),
    /// What the registry has.
    Listed(Snapshot),
}

impl Start {
    /// What our lease says of us by now; `choose` tells which of those listed is ours.
    fn own_attrs(&self, choose: impl FnOnce(&Snapshot) -> Option<&Lease>) -> Option<LeaseAttrs> {
        match self {
            Self::Remembered(past) => Some(past.own.attrs.clone()),
            Self::Listed(listed) => choose(listed).map(|lease| lease.attrs.clone()),
        }
    }
}

impl<R: Registry> Node<'_, R> {
    /// Joins the overlay and stays in it for as long as it is polled. The lease outlives us, so
    /// that a restart finds it.
    ///
    /// # Errors
    /// [`NodeError`] when there is no lease to be had, it is lost, or the backend fails.
    ///
    /// # Cancel safety
    /// Dropping the future stops the backend, which leaves nothing on the host but its files
    /// and the rules.
    pub(crate) async fn live(mut self, driver: Box<dyn Driver>) -> Result<Infallible, NodeError> {
        let former = self.state.own_ttl_lease();
        let start = match self.past.take() {
            Some(past) => Start::Remembered(past),
            None => self.list(driver.public_ip()).await,
        };
        // Before the lease is written: a second daemon on this host fails here and leaves it alone.
        let public_ip = driver.public_ip();
        let before =
            start.own_attrs(|listed| choose_own(&self.network, listed, public_ip, self.previous));
        let (prepared, attrs) = driver.prepare(before.as_ref()).await?;
        let (own, known) = match start {
            Start::Remembered(past) => past.resume(attrs),
            Start::Listed(listed) => self.acquire(attrs, listed).await?,
        };
        let is_remembered = matches!(known, Known::Remembered(_));
        let former = former.filter(|former| own.entry.ttl_lease != Some(*former));
        let backend = prepared.start(&own).await?;
        tokio::select! {
            end = self.work(own, known, backend) => end,
            never = self.compare_store(), if is_remembered => match never {},
            never = self.release(former) => match never {},
        }
    }

    /// All leases, or those of our past if the registry fell silent after it gave us the config.
    async fn list(&self, public_ip: Ipv4Addr) -> Start {
        self.health.enter("acquiring a lease");
        match timeout(LIST_TIMEOUT, list_leases(self.registry)).await {
            Ok(listed) => Start::Listed(listed),
            Err(_) => match self.recall(public_ip).await {
                Some(past) => Start::Remembered(past),
                None => Start::Listed(list_leases(self.registry).await),
            },
        }
    }

    /// A lease, or that of our past while the registry lets nobody write and no entry says that
    /// its subnet is somebody's.
    async fn acquire(
        &mut self,
        attrs: LeaseAttrs,
        listed: Snapshot,
    ) -> Result<(Lease, Known), NodeError> {
        let acquire = |listed, max_failures| {
            let (network, previous) = (&self.network, self.previous);
            acquire_from(self.registry, network, &attrs, previous, listed, max_failures)
        };
        let acquired = match acquire(listed, Some(MAX_FAILURES)).await {
            Err(AcquireError::NotWritten(_)) => {
                let listed = timeout(LIST_TIMEOUT, list_leases(self.registry)).await;
                let is_free = |subnet: Ipv4Network| {
                    let all = listed.iter().flat_map(Snapshot::leases);
                    !all.filter(|lease| lease.attrs.owner().is_some())
                        .any(|lease| lease.subnet.overlaps(subnet))
                };
                if self.in_use.is_some_and(is_free)
                    && let Some(past) = self.recall(attrs.public_ip).await
                {
                    return Ok(past.resume(attrs));
                }
                let listed = match listed {
                    Ok(listed) => listed,
                    Err(_) => list_leases(self.registry).await,
                };
                acquire(listed, None).await?
            }
            other => other?,
        };
        let Acquired { lease, listed, rival } = acquired;
        self.state.meet(&listed.store);
        self.rival = rival;
        Ok((lease, Known::Listed(listed)))
    }

    async fn recall(&self, public_ip: Ipv4Addr) -> Option<Past> {
        let backend = Some(self.network.backend.backend_type());
        // The config may be another since.
        let in_use = self.in_use.filter(|subnet| self.network.v4.accepts(*subnet));
        let mut log = LogLimit::default();
        let remembered = self.state.recall(self.registry, in_use, backend, public_ip, &mut log);
        Some(remembered.await?.past)
    }

    /// Gives back what our entry was bound to in an earlier life, unless it still is. Somebody may
    /// have overwritten or deleted the entry since.
    async fn release(&self, former: Option<TtlLease>) -> Infallible {
        if let Some(former) = former {
            while self.registry.release(former).await.is_err() {
                sleep(RELEASE_INTERVAL).await;
            }
        }
        std::future::pending().await
    }

    /// Tells the operator if another registry answers than the one whose state we started with.
    async fn compare_store(&self) -> Infallible {
        let store = loop {
            match self.registry.identity().await {
                Ok(store) => break store,
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        };
        if let Some(before) = self.state.meet(&store) {
            warn!("{store} answers, but this node started with the state of {before}");
        }
        std::future::pending().await
    }

    /// Starts to keep the rules. It takes a while, and longer where something is amiss; peers are
    /// served meanwhile.
    fn start_firewall(&self, lease: &Lease) -> Firewall {
        let ranges = Ranges { network: self.network.v4.network, subnet: lease.subnet };
        let tool = if self.network.nftables { RuleTool::Nftables } else { RuleTool::Iptables };
        let network = previous_network(self.subnet_file);
        Firewall::start(self.firewall, tool, ranges, (network, self.previous))
    }

    /// Starts to tell the host what its network is.
    fn keep_subnet_file(&self, lease: &Lease, mtu: u16) -> SubnetFile {
        let (network, subnet) = (self.network.v4.network, lease.subnet);
        let env = SubnetEnv { network, subnet, mtu, ip_masq: self.firewall.ip_masq };
        SubnetFile::keep(self.subnet_file, &env)
    }

    /// Feeds the backend with its peers' leases, and watches over it and over our lease.
    async fn work(
        &self,
        own: Lease,
        known: Known,
        mut backend: Box<dyn Backend>,
    ) -> Result<Infallible, NodeError> {
        let mut report_requests = self.health.report_requests();
        let mut vitals = NodeStatus::new(&own);
        vitals.rival(self.rival.as_ref());
        // Unbounded, yet never long: it is filled and emptied by this one task, turn by turn.
        let (sink, mut changes) = mpsc::unbounded_channel();
        let (in_touch, mut touch) = watch::channel(matches!(known, Known::Listed(_)));
        let (hold, mut held) = mpsc::unbounded_channel();
        let claim = Claim::new(own.subnet, own.attrs.public_ip);
        let remembered = match &known {
            Known::Remembered(peers) => peers.as_slice(),
            Known::Listed(_) => &[],
        };
        let mut record = Recorder::new(self.state, self.config_text, own.clone(), remembered);
        if !remembered.is_empty() {
            backend.apply(remembered.iter().cloned().map(LeaseEvent::Added).collect());
        }
        let mut follow = pin!(follow_leases(self.registry, &claim, known, in_touch, |news| {
            drop(sink.send(news));
        }));
        let (announce_causes, causes) = watch::channel(AnnounceCauses::default());
        let attrs = backend.attrs().unwrap_or_else(|| watch::channel(own.attrs.clone()).1);
        let hold = |lease: &Lease| drop(hold.send(lease.clone()));
        let keep = keep_lease_saying(self.registry, &own, self.keep, &claim, causes, attrs, hold);
        let mut keep = pin!(keep);
        let (warn, mut warned) = mpsc::unbounded_channel();
        let num_peers = Cell::new(0);
        let mut config = pin!(follow_config(
            self.registry,
            self.backend_override,
            &self.network,
            touch.clone(),
            || num_peers.get(),
            |warning| drop(warn.send(warning)),
        ));
        let mut firewall = self.start_firewall(&own);
        let mut subnet_file = None;
        let mut is_announced = false;
        let (mut watchdog, mut beats) = (Watchdog::from_env(), interval(BEAT));
        let announce_by = Instant::now() + RULES_PATIENCE;
        loop {
            let in_touch = *touch.borrow_and_update();
            vitals.touch(in_touch);
            self.health.beat(Loop::Node);
            self.health.show(status_line(&own, &*backend, in_touch));
            tokio::select! {
                _ = timeout_at(announce_by, firewall.installed()), if subnet_file.is_none() => {
                    subnet_file = Some(self.keep_subnet_file(&own, backend.mtu()));
                }
                () = tried(subnet_file.as_mut()), if !is_announced => {
                    announce();
                    is_announced = true;
                }
                Some(news) = changes.recv() => {
                    announce_causes.send_modify(|causes| causes.observe(&news));
                    let News { events, num_malformed, num_known, doubted, .. } = news;
                    num_peers.set(num_known);
                    vitals.malformed(num_malformed);
                    vitals.warn("peers", doubted);
                    record.apply(&events);
                    backend.apply(events);
                    // The first news is all there is in the registry.
                    backend.synced();
                }
                Some(lease) = held.recv() => {
                    vitals.hold(&lease);
                    record.hold(lease);
                }
                Some(warning) = warned.recv() => vitals.warn("config", warning),
                step = record.next() => record.take(step),
                Some(request) = report_requests.recv() => {
                    vitals.subnet_file(subnet_file.as_ref().map(SubnetFile::state));
                    vitals.warn("lease", claim.write_failure());
                    vitals.lease_gone(claim.is_gone());
                    let report = vitals.report(self.stats(&claim, &*backend), &*backend, &firewall);
                    // Whoever asked may be gone by now.
                    drop(request.send(report));
                }
                Ok(()) = touch.changed() => {}
                _ = beats.tick() => {}
                () = watchdog.due() => notify(&[NotifyState::Watchdog]),
                failure = backend.failed() => return Err(failure.into()),
                lost = &mut keep => {
                    error!("{lost}: forwarding for {} ends", claim.subnet);
                    error!("Lease has been revoked. Shutting down daemon.");
                    record.forget().await;
                    return Err(lost.into());
                }
                never = &mut follow => match never {},
                never = &mut config => match never {},
            }
        }
    }

    fn stats(&self, claim: &Claim, backend: &dyn Backend) -> Stats {
        Stats {
            network: self.network.v4.network,
            subnet: claim.subnet,
            public_ip: claim.public_ip(),
            conflicts: claim.conflicts(),
            mtu: backend.mtu(),
            backend: backend.stats(),
        }
    }
}

/// Until there is a subnet.env, or it is known that there cannot be one.
async fn tried(subnet_file: Option<&mut SubnetFile>) {
    match subnet_file {
        Some(subnet_file) => subnet_file.tried().await,
        None => std::future::pending().await,
    }
}

/// Tells systemd that we are ready. A node that cannot write its file still serves its peers.
fn announce() {
    info!("Running backend.");
    info!("Watching for new subnet leases");
    notify(&[NotifyState::Ready]);
}

/// How the node is, in one line for `systemctl status`.
fn status_line(lease: &Lease, backend: &dyn Backend, in_touch: bool) -> String {
    let (device, num_peers) = (backend.device(), backend.num_peers());
    let peers = if num_peers == 1 { "peer" } else { "peers" };
    let registry = if in_touch { "" } else { "; registry does not answer, packets go on" };
    format!("{} on {device}, {num_peers} {peers}{registry}", lease.subnet)
}

#[cfg(test)]
mod tests;
