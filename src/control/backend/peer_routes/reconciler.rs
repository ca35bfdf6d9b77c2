//! [`PeerReconciler`]: makes the kernel's tables hold what the peers' leases ask for, and keeps
//! them so.
//!
//! ```text
//! leases ──► PeerHost::peer ──► Desired ──┐
//!                                         ├─► difference ──► Tables::apply
//! kernel ──► Tables::read ──► Entries ────┘
//! ```
//!
//! A lease that changes costs the netlink calls of its own peer. Everything is compared when the
//! kernel reports a change of ours, and every ten seconds, as stock's host-gw does. What fails is
//! tried again by itself, later and later, and never holds up another peer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::desired::{Desired, PeerEntries};
use super::entries::{Change, Entries, Hop, Key};
use super::tables::{Links, Tables};
use crate::control::backend::BackendError;
use crate::control::conditions::{Condition, Conditions};
use crate::control::subnet::lease::{LeaseAttrs, LeaseEvent};
use crate::control::util::error_chain::one_line;
use crate::control::util::log_limit::LogLimit;

/// Time between two comparisons that nothing prompted: a route that goes with the address of its
/// link is not announced, and a message may be lost. Stock's host-gw takes the same
/// (`routeCheckRetries` in `pkg/backend/route_network.go`).
const PERIOD: Duration = Duration::from_secs(10);

/// Debounce window for netlink events.
const SETTLE: Duration = Duration::from_millis(50);

/// First and longest pause before a change that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a backend does on its host for the reconciler.
#[expect(async_fn_in_trait, reason = "all callers run on one thread: no bound is wanted")]
pub trait PeerHost {
    /// The tables it keeps entries in.
    type Tables: Tables;

    /// The tables.
    fn tables(&self) -> &Self::Tables;

    /// The whole overlay: entries outside of it are not ours.
    fn network(&self) -> Ipv4Network;

    /// Our own part of it.
    fn own(&self) -> Ipv4Network;

    /// Puts its device right, if it has one, and looks at the external interface. Sets a condition
    /// for each.
    ///
    /// # Errors
    /// [`BackendError`] when there is no device to put entries on; tried again soon.
    async fn reconcile_links(&mut self, conditions: &mut Conditions)
    -> Result<Links, BackendError>;

    /// What this peer needs.
    ///
    /// # Errors
    /// One line that says why its lease cannot be followed.
    async fn peer(&self, subnet: Ipv4Network, attrs: &LeaseAttrs) -> Result<PeerEntries, String>;

    /// Waits until the kernel reports a change to what is ours, of which `there` is how we left it;
    /// for ever if there will be none.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    async fn changed(&mut self, there: &Entries);

    /// Forgets the changes that have been reported by now.
    fn drain_changes(&mut self);
}

/// What the node has for its backend.
#[derive(Debug)]
pub enum Command {
    /// Changes to the peers' leases, in order.
    Apply(Vec<LeaseEvent>),
    /// The registry has listed every lease: what no lease asks for is left over.
    Synced,
}

/// A change that failed.
#[derive(Debug)]
struct Failure {
    retry_at: Instant,
    pause: Duration,
    reason: String,
}

/// Keeps the tables of one node. Runs in a task of its own.
#[derive(Debug)]
pub struct PeerReconciler<H> {
    host: H,
    commands: mpsc::UnboundedReceiver<Command>,
    conditions: watch::Sender<Conditions>,
    /// The other nodes of our kind.
    leases: BTreeMap<Ipv4Network, LeaseAttrs>,
    desired: Desired,
    /// The entries as we left them.
    there: Entries,
    links: Option<Links>,
    is_synced: bool,
    failures: BTreeMap<Key, Failure>,
    /// Why a lease cannot be followed.
    faults: BTreeMap<Ipv4Network, String>,
    /// Why the tables cannot be compared.
    trouble: Option<String>,
    log: LogLimit,
}

impl<H: PeerHost> PeerReconciler<H> {
    /// Takes over a host whose device was just made.
    pub fn new(
        host: H,
        links: Links,
        commands: mpsc::UnboundedReceiver<Command>,
        conditions: watch::Sender<Conditions>,
    ) -> Self {
        Self {
            host,
            commands,
            conditions,
            leases: BTreeMap::new(),
            desired: Desired::default(),
            there: Entries::default(),
            links: Some(links),
            is_synced: false,
            failures: BTreeMap::new(),
            faults: BTreeMap::new(),
            trouble: None,
            log: LogLimit::default(),
        }
    }

    /// Works until the node drops its end of the commands.
    pub async fn run(mut self) {
        // What an earlier life left is in place already.
        let is_in_place = self.reconcile().await;
        let mut compare_at = Instant::now() + if is_in_place { PERIOD } else { RETRY.0 };
        loop {
            let retry_at = self.failures.values().map(|failure| failure.retry_at).min();
            let wake_at = retry_at.map_or(compare_at, |retry_at| retry_at.min(compare_at));
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Apply(events)) => self.apply(events).await,
                    Some(Command::Synced) => {
                        self.is_synced = true;
                        compare_at = Instant::now();
                    }
                    None => return,
                },
                () = self.host.changed(&self.there) => {
                    compare_at = compare_at.min(Instant::now() + SETTLE);
                }
                () = sleep_until(wake_at) => {
                    if Instant::now() >= compare_at {
                        self.host.drain_changes();
                        let is_in_place = self.reconcile().await;
                        compare_at = Instant::now() + if is_in_place { PERIOD } else { RETRY.0 };
                    } else {
                        self.retry().await;
                    }
                }
            }
            self.report_peers();
        }
    }

    /// Takes over changes of leases: only the entries of these peers are touched.
    async fn apply(&mut self, events: Vec<LeaseEvent>) {
        let mut touched = BTreeSet::new();
        for event in events {
            let subnet = match event {
                LeaseEvent::Added(lease) => {
                    self.leases.insert(lease.subnet, lease.attrs);
                    lease.subnet
                }
                LeaseEvent::Removed(subnet) => {
                    self.leases.remove(&subnet);
                    subnet
                }
            };
            touched.extend(self.evaluate(subnet).await);
        }
        self.program(touched).await;
    }

    /// Asks again what the peer of `subnet` needs. Returns what may have changed.
    async fn evaluate(&mut self, subnet: Ipv4Network) -> BTreeSet<Key> {
        let wanted = match self.leases.get(&subnet) {
            Some(attrs) => match self.misplaced(subnet) {
                Some(fault) => Err(fault),
                None => self.host.peer(subnet, attrs).await,
            },
            None => {
                self.faults.remove(&subnet);
                if self.desired.peers().contains_key(&subnet) {
                    tracing::debug!("removing subnet: {subnet}");
                }
                return self.desired.set(subnet, None);
            }
        };
        match wanted {
            Ok(peer) => {
                self.faults.remove(&subnet);
                self.warn_of_rivals(subnet, &peer);
                if self.desired.peers().get(&subnet) == Some(&peer) {
                    return BTreeSet::new();
                }
                let PeerEntries { hop: Hop { gateway, .. }, vtep } = peer;
                match vtep {
                    Some((mac, host)) => {
                        tracing::debug!("adding subnet: {subnet} PublicIP: {host} VtepMAC: {mac}")
                    }
                    None => tracing::debug!(
                        "Adding direct route to subnet: {subnet} PublicIP: {gateway}"
                    ),
                }
                self.desired.set(subnet, Some(peer))
            }
            Err(fault) => {
                if self.faults.get(&subnet) != Some(&fault) {
                    // While the interface is down no peer of host-gw's is in reach: said once.
                    let underlay = self.conditions.borrow().get("underlay");
                    if !matches!(underlay, Condition::Failed(_)) {
                        tracing::warn!("lease {subnet}: {fault}; it gets no route");
                    }
                    self.faults.insert(subnet, fault);
                }
                self.desired.set(subnet, None)
            }
        }
    }

    /// Why the kernel must have no route to `subnet`: it would take packets away from this host's
    /// own links, or from its containers.
    fn misplaced(&self, subnet: Ipv4Network) -> Option<String> {
        let (network, own) = (self.host.network(), self.host.own());
        let is_within = |outer: Ipv4Network| {
            outer.contains(subnet.network()) && outer.contains(subnet.broadcast())
        };
        if !is_within(network) {
            return Some(format!("it is not inside the Network {network}"));
        }
        is_within(own).then(|| format!("it is inside our own subnet {own}"))
    }

    fn warn_of_rivals(&mut self, subnet: Ipv4Network, peer: &PeerEntries) {
        let Some((mac, host)) = peer.vtep else { return };
        if let Some(rival) = self.desired.rivals(mac, host).first()
            && *rival != subnet
            && self.log.is_due("rivals")
        {
            tracing::warn!(
                "leases {subnet} and {rival} have one VtepMAC {mac} on two hosts: one of them gets \
                 no packets; delete the device of a cloned host and restart its flanneld"
            );
        }
    }

    /// Compares everything, and makes the difference. Returns whether it could.
    async fn reconcile(&mut self) -> bool {
        let mut conditions = self.conditions.borrow().clone();
        let links = self.host.reconcile_links(&mut conditions).await;
        self.publish(conditions);
        let links = match links {
            Ok(links) => links,
            Err(error) => {
                self.links = None;
                self.trouble = Some(one_line(&error));
                return false;
            }
        };
        self.links = Some(links);
        let subnets: Vec<Ipv4Network> = self.leases.keys().copied().collect();
        for subnet in subnets {
            self.evaluate(subnet).await;
        }
        let found = match self.host.tables().read(links, self.host.network()).await {
            Ok(found) => found,
            Err(error) => {
                self.trouble = Some(one_line(&error));
                return false;
            }
        };
        self.trouble = None;
        self.there = found.entries;
        let mut keys: BTreeSet<Key> = self.desired.entries().keys().collect();
        if self.is_synced {
            keys.extend(self.there.keys());
        }
        // What is in place has not failed, even if another program put it there.
        let (there, wanted) = (&self.there, self.desired.entries());
        self.failures.retain(|key, _| there.change(*key, wanted).is_some());
        self.program(keys).await;
        if self.is_synced {
            for change in found.strays {
                // It is read again in ten seconds.
                drop(self.host.tables().apply(links, change).await);
            }
        }
        true
    }

    /// Makes the entries `keys` those that are desired: additions in the order of the keys, then
    /// deletions in the reverse order, so that no route leads to what is gone.
    async fn program(&mut self, keys: BTreeSet<Key>) {
        let change = |key: &Key| self.there.change(*key, self.desired.entries());
        let changes: Vec<(Key, Change)> =
            keys.iter().filter_map(|key| Some((*key, change(key)?))).collect();
        let (deletions, additions): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|(_, change)| change.is_deletion());
        for (key, change) in additions.into_iter().chain(deletions.into_iter().rev()) {
            self.make(key, change).await;
        }
    }

    async fn make(&mut self, key: Key, change: Change) {
        // Without a device everything is compared as soon as there is one.
        let Some(links) = self.links else { return };
        match self.host.tables().apply(links, change).await {
            Ok(()) => {
                tracing::debug!("{change}");
                self.there.record(change);
                self.failures.remove(&key);
            }
            Err(error) => {
                let pause = self
                    .failures
                    .get(&key)
                    .map_or(RETRY.0, |before| (before.pause * 2).min(RETRY.1));
                let reason = one_line(&error);
                if self.log.is_due("change") {
                    tracing::warn!("{reason}; trying again");
                }
                let retry_at = Instant::now() + pause;
                self.failures.insert(key, Failure { retry_at, pause, reason });
            }
        }
    }

    /// Tries the changes again whose pause is over.
    async fn retry(&mut self) {
        let now = Instant::now();
        let due = self.failures.iter().filter(|(_, failure)| failure.retry_at <= now);
        let due: BTreeSet<Key> = due.map(|(key, _)| *key).collect();
        // It may have become needless meanwhile.
        self.failures.retain(|key, _| {
            !due.contains(key) || self.there.change(*key, self.desired.entries()).is_some()
        });
        self.program(due).await;
    }

    /// Says how many peers cannot be reached, and why the first cannot.
    fn report_peers(&mut self) {
        let mut conditions = self.conditions.borrow().clone();
        let first_failure = self.failures.values().map(|failure| &failure.reason).next();
        let first_fault =
            self.faults.iter().map(|(subnet, fault)| format!("lease {subnet}: {fault}"));
        let first = first_failure.cloned().or_else(|| first_fault.into_iter().next());
        let num = self.failures.len() + self.faults.len();
        let condition = match (&self.trouble, first) {
            (Some(trouble), _) => Condition::Failed(trouble.clone()),
            (None, Some(first)) if num == 1 => Condition::Degraded(first),
            (None, Some(first)) => Condition::Degraded(format!("{first}; and {} more", num - 1)),
            (None, None) => Condition::Ok,
        };
        conditions.set("peers", condition);
        self.publish(conditions);
    }

    /// Publishes the conditions, and logs those that changed.
    fn publish(&mut self, conditions: Conditions) {
        let before = self.conditions.borrow().clone();
        if before != conditions {
            // Each peer's reason was logged when it came up.
            conditions.log_changes(&before, &["peers"], &mut self.log);
            self.conditions.send_replace(conditions);
        }
    }
}
