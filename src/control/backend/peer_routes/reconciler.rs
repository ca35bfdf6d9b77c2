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
//! kernel reports a change of ours, and every ten seconds, as stock's host-gw does. A change
//! that fails is retried by itself, with increasing delays, and never delays another peer.

mod evaluate;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::desired::Desired;
use super::entries::{Change, Entries, Hop, Key, Via};
use super::failures::{Failures, RETRY};
use super::host::PeerHost;
use super::tables::{Links, Tables};
use crate::control::conditions::{Condition, Conditions};
use crate::control::subnet::lease::{LeaseAttrs, LeaseEvent};
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;

/// Time between two periodic comparisons: the kernel does not report a route that it removes with
/// the address of its link, and a message may be lost. Stock's host-gw takes the same
/// (`routeCheckRetries` in `pkg/backend/route_network.go`).
const PERIOD: Duration = Duration::from_secs(10);

/// Debounce window for netlink events.
const SETTLE: Duration = Duration::from_millis(50);

/// What the node has for its backend.
#[derive(Debug)]
pub enum Command {
    /// Changes to the peers' leases, in order.
    Apply(Vec<LeaseEvent>),
    /// The registry has listed every lease: what no lease asks for is left over.
    Synced,
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
    /// The entries as we last wrote them.
    there: Entries,
    links: Option<Links>,
    is_synced: bool,
    failures: Failures,
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
            failures: Failures::default(),
            faults: BTreeMap::new(),
            trouble: None,
            log: LogLimit::default(),
        }
    }

    /// Works until the node drops its end of the commands.
    pub async fn run(mut self) {
        // What an earlier run left is in place already.
        let is_in_place = self.reconcile().await;
        let mut compare_at = Instant::now() + if is_in_place { PERIOD } else { RETRY.0 };
        loop {
            let retry_at = self.failures.next_retry();
            let wake_at = retry_at.map_or(compare_at, |retry_at| retry_at.min(compare_at));
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Apply(events)) => self.apply(events).await,
                    // Later changes of leases are complete too, and need no comparison.
                    Some(Command::Synced) if self.is_synced => {}
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

    /// Compares everything, and applies the difference. Returns whether it could.
    async fn reconcile(&mut self) -> bool {
        let mut conditions = self.conditions.borrow().clone();
        let links = self.host.reconcile_links(&mut conditions).await;
        self.publish(conditions);
        let links = match links {
            Ok(links) => links,
            Err(error) => {
                self.links = None;
                self.trouble = Some(error_chain(&error));
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
                self.trouble = Some(error_chain(&error));
                return false;
            }
        };
        self.trouble = None;
        let before = std::mem::replace(&mut self.there, found.entries);
        let lost = self.lost_routes(&before);
        let mut keys: BTreeSet<Key> = self.desired.entries().keys().collect();
        if self.is_synced {
            keys.extend(self.there.keys());
        }
        // An entry that is in place has not failed, even if another program wrote it.
        let (there, wanted) = (&self.there, self.desired.entries());
        self.failures.retain(|key| there.change(key, wanted).is_some());
        self.program(keys).await;
        self.log_recovered(lost);
        if self.is_synced {
            for change in found.strays {
                // It is read again in ten seconds.
                drop(self.host.tables().apply(links, change).await);
            }
        }
        true
    }

    /// The routes of ours that are no longer there, and should be.
    fn lost_routes(&self, before: &Entries) -> Vec<(Ipv4Network, Hop)> {
        let wanted = self.desired.entries();
        let is_lost = |(subnet, hop): &(&Ipv4Network, &Hop)| {
            wanted.routes.get(*subnet) == Some(*hop) && !self.there.routes.contains_key(*subnet)
        };
        before.routes.iter().filter(is_lost).map(|(subnet, hop)| (*subnet, *hop)).collect()
    }

    /// Stock's host-gw logs each route that it had to add again.
    fn log_recovered(&self, lost: Vec<(Ipv4Network, Hop)>) {
        for (subnet, hop) in lost {
            if hop.via == Via::Underlay && self.there.routes.get(&subnet) == Some(&hop) {
                tracing::info!("Route recovered {subnet} : {}", hop.gateway);
            }
        }
    }

    /// Makes the entries `keys` those that are desired: additions in the order of the keys, then
    /// deletions in the reverse order, so that no route leads to what is gone.
    async fn program(&mut self, keys: BTreeSet<Key>) {
        let change = |key: &Key| self.there.change(*key, self.desired.entries());
        let changes: Vec<(Key, Change)> =
            keys.iter().filter_map(|key| Some((*key, change(key)?))).collect();
        tracing::trace!("{} entries checked, {} to change", keys.len(), changes.len());
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
                self.failures.remove(key);
            }
            Err(error) => {
                let reason = error_chain(&error);
                if self.log.is_due("change") {
                    tracing::warn!("{reason}; trying again");
                }
                self.failures.insert(key, reason);
            }
        }
    }

    /// Tries the changes again whose pause is over.
    async fn retry(&mut self) {
        let due = self.failures.due();
        // The change may not be needed any more.
        let (there, wanted) = (&self.there, self.desired.entries());
        self.failures.retain(|key| !due.contains(&key) || there.change(key, wanted).is_some());
        self.program(due).await;
    }

    /// Sets the condition: how many peers are unreachable, and why the first is.
    fn report_peers(&mut self) {
        let mut conditions = self.conditions.borrow().clone();
        let first_failure = self.failures.first_reason().map(str::to_owned);
        let first_fault =
            self.faults.iter().map(|(subnet, fault)| format!("lease {subnet}: {fault}"));
        let first = first_failure.or_else(|| first_fault.into_iter().next());
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
