//! [`DeviceReconciler`]: keeps device, address and route in their desired conditions, and follows the
//! external interface.
//!
//! It compares when the kernel reports a change, and every ten seconds. What differs is repaired;
//! what is not ours to change is reported as a condition. It runs in a task of its own, so that
//! peers' leases are followed meanwhile.

mod recreate;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{trace, warn};

use super::device::{Device, DeviceSpec};
use super::engine_handle::EngineHandle;
use super::fast_path::{JUMBO_MTU, Place, ShortCut};
use super::repair_limit::RepairLimit;
use super::source_ports;
use super::underlay::Underlay;
use crate::control::backend::BackendError;
use crate::control::conditions::{Condition, Conditions};
use crate::control::config::daemon::SourcePorts;
use crate::control::host::iface::ExternalInterface;
use crate::control::host::net::{
    Drift, HostChange, HostChanges, HostNet, KernelError, Link, Netlink, OverlayLink, Reconciled,
    reconcile,
};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::backoff::Backoff;
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;
use crate::dataplane::EngineError;
use crate::dataplane::fast_path::{DeviceRef, FastPath};
use crate::routes::KernelReceive;

/// Debounce window for netlink events.
const SETTLE: Duration = Duration::from_millis(50);

/// Time between two reconciliations without an event: the kernel does not announce the routes that
/// go with the last address of their link, and a message may be lost.
const PERIOD: Duration = Duration::from_secs(10);

/// First and longest pause before a failed repair is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Names of the conditions.
const CONDITIONS: [&str; 5] = ["device", "address", "route", "peer_routes", "underlay"];

/// The attributes of our lease, and their inputs.
#[derive(Debug)]
pub(super) struct Advertised {
    /// The operator's choice.
    pub(super) source_ports: SourcePorts,
    /// The identity of this host, if it is known.
    pub(super) host: Option<HostId>,
    /// What the lease is to say.
    pub(super) attrs: watch::Sender<LeaseAttrs>,
}

impl Advertised {
    /// Says what follows from the interface, and what our kernel takes of what peers' kernels send.
    /// With the network's port alone, a lease is stock's to the byte.
    fn update(&self, iface: &ExternalInterface, kernel_receive: KernelReceive) {
        let attrs = source_ports::attrs(iface, self.source_ports, self.host.as_ref());
        let attrs = match self.source_ports {
            SourcePorts::Auto => source_ports::advertise_kernel(attrs, kernel_receive),
            SourcePorts::Shared => attrs,
        };
        let is_new = |said: &mut LeaseAttrs| {
            let is_new = *said != attrs;
            *said = attrs;
            is_new
        };
        self.attrs.send_if_modified(is_new);
    }
}

/// Reconciles one device.
#[derive(Debug)]
pub(super) struct DeviceReconciler {
    net: Netlink,
    changes: HostChanges,
    spec: DeviceSpec,
    underlay: Underlay,
    advertised: Advertised,
    short_cut: ShortCut,
    /// Ports of the workers' further sockets.
    source_ports: [u16; 8],
    engine: Arc<EngineHandle>,
    /// The device as it should be; `None` while there is none.
    link: Option<OverlayLink>,
    /// MTU of the device in bytes, the next one's too.
    mtu: u16,
    /// Whether the route to the Network was ours; if it was, one that replaced it is replaced.
    owns_route: bool,
    failures: mpsc::Receiver<EngineError>,
    conditions: watch::Sender<Conditions>,
    retry: Backoff,
    repair_limit: RepairLimit,
    log: LogLimit,
}

/// Result of a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There was nothing to do.
    InSync,
    /// Something was repaired. The kernel reports that to us, too.
    Repaired,
    /// Something still differs.
    Failed,
}

impl DeviceReconciler {
    /// Takes over a device that was just made by `spec`, and its workers.
    pub(super) fn new(
        (net, changes): (Netlink, HostChanges),
        spec: DeviceSpec,
        underlay: Underlay,
        advertised: Advertised,
        (short_cut, fast_path): (ShortCut, Arc<FastPath>),
        device: Device,
    ) -> Self {
        let Device { name, link, owns_route, source_ports, engine, failures } = device;
        let (own, counters) = (addrs(underlay.iface()), spec.counters.clone());
        let engine = Arc::new(EngineHandle::new(name, own, engine, counters, fast_path));
        Self {
            net,
            changes,
            spec,
            underlay,
            advertised,
            short_cut,
            source_ports,
            engine,
            link: Some(link),
            mtu: link.mtu,
            owns_route,
            failures,
            conditions: watch::Sender::new(Conditions::ok(&CONDITIONS)),
            retry: Backoff::new(RETRY.0, RETRY.1),
            repair_limit: RepairLimit::new(),
            log: LogLimit::default(),
        }
    }

    /// The workers, to read their counters and to end them.
    pub(super) fn engine(&self) -> Arc<EngineHandle> {
        Arc::clone(&self.engine)
    }

    /// Where another task may set the conditions that it checks.
    pub(super) fn conditions_sender(&self) -> watch::Sender<Conditions> {
        self.conditions.clone()
    }

    /// The conditions, now and at every change.
    pub(super) fn conditions(&self) -> watch::Receiver<Conditions> {
        self.conditions.subscribe()
    }

    /// What our lease is to say of us, now and at every change.
    pub(super) fn attrs(&self) -> watch::Receiver<LeaseAttrs> {
        self.advertised.attrs.subscribe()
    }

    /// Runs until a worker fails while the device is there.
    pub(super) async fn run(mut self) -> BackendError {
        loop {
            let outcome = self.reconcile().await;
            if let Some(failure) = self.wait(outcome).await {
                return BackendError::Engine(failure);
            }
        }
    }

    /// Waits until the next reconciliation is due. Returns a worker's failure that ends the daemon.
    async fn wait(&mut self, outcome: Outcome) -> Option<EngineError> {
        let start = Instant::now();
        let (mut earliest, latest) = match outcome {
            Outcome::InSync => (SETTLE, PERIOD),
            Outcome::Repaired => (self.repair_limit.delay().max(SETTLE), PERIOD),
            Outcome::Failed => (self.repair_limit.delay().max(SETTLE), self.retry.delay()),
        };
        if outcome != Outcome::Failed {
            self.retry.reset();
        }
        let latest = self.underlay.followed().grace_left().map_or(latest, |left| left.min(latest));
        let latest = latest.max(earliest);
        let period = sleep(latest);
        tokio::pin!(period);
        loop {
            tokio::select! {
                Some(failure) = self.failures.recv() => {
                    let is_panic = matches!(failure, EngineError::Panicked { .. });
                    if is_panic || self.has_device().await {
                        return Some(failure);
                    }
                    break;
                }
                Some(change) = self.changes.next() => {
                    if outcome == Outcome::Failed && self.underlay.followed().is_concerned_by(change) {
                        // The change may allow the repair that failed before.
                        earliest = SETTLE;
                        break;
                    }
                    if self.is_concerned_by(change) {
                        break;
                    }
                }
                () = self.short_cut.given_up() => break,
                () = &mut period => break,
            }
        }
        let settled = (Instant::now() + SETTLE).min(start + latest);
        sleep_until(settled.max(start + earliest)).await;
        self.changes.drain();
        None
    }

    /// Whether a change may be one of ours: the overlay device, its route, or the interface. A host
    /// with many containers has links that come and go all the time.
    fn is_concerned_by(&self, change: HostChange) -> bool {
        let is_ours = |index| {
            let gpe = self.short_cut.gpe_index();
            self.link.is_some_and(|link| link.index == index) || gpe == Some(index)
        };
        self.underlay.followed().is_concerned_by(change)
            || match change {
                HostChange::Link(index) | HostChange::Addr(index, _) => is_ours(index),
                HostChange::Route(dst) => dst == self.spec.network,
                HostChange::Missed => true,
            }
    }

    /// Whether the device exists, as far as we can tell.
    async fn has_device(&self) -> bool {
        match self.link {
            Some(link) => !matches!(self.net.link_at(link.index).await, Ok(None)),
            None => false,
        }
    }

    /// Compares everything, and repairs what is ours.
    async fn reconcile(&mut self) -> Outcome {
        let mut conditions = Conditions::ok(&CONDITIONS);
        let outcome = self.reconcile_host(&mut conditions).await.unwrap_or_else(|error| {
            conditions.set("device", Condition::Failed(error_chain(&error)));
            Outcome::Failed
        });
        trace!("overlay device looked at: {outcome:?}");
        self.publish(conditions);
        outcome
    }

    async fn reconcile_host(
        &mut self,
        conditions: &mut Conditions,
    ) -> Result<Outcome, BackendError> {
        let carrier =
            self.underlay.followed_mut().link(&self.net).await.map_err(BackendError::Kernel)?;
        conditions.set("underlay", self.underlay.condition(carrier.as_ref()));
        match &carrier {
            Some(carrier) => self.mtu = self.underlay.tun_mtu(carrier),
            None => {
                if self.follow_underlay().await? {
                    conditions.set("underlay", Condition::Ok);
                    return Ok(Outcome::Repaired);
                }
            }
        }
        let found = self.reconcile_device().await.map_err(BackendError::Kernel)?;
        let outcome = match found {
            Some(found) => self.take_over(found, conditions),
            None => {
                self.short_cut.reconcile(&self.net, None).await;
                self.give_up_device();
                // Before the device: without sockets it would be created and deleted at each attempt.
                let sockets = self.spec.bind()?;
                self.recreate(sockets).await?;
                Outcome::Repaired
            }
        };
        let place = self.place(carrier.as_ref());
        let kernel_receive = self.short_cut.reconcile(&self.net, place).await;
        self.advertised.update(self.underlay.iface(), kernel_receive);
        if !self.owns_route && conditions.get("route").is_ok() {
            let reason = format!(
                "the route to {} leaves by another link: delete it, or its packets miss us",
                self.spec.network
            );
            conditions.set("route", Condition::Failed(reason));
        }
        Ok(outcome)
    }

    /// Where the fast path belongs, while both devices are there.
    fn place(&self, carrier: Option<&Link>) -> Option<Place> {
        let (link, carrier) = (self.link?, carrier?);
        Some(Place {
            overlay: DeviceRef { index: link.index, name: self.engine.name() },
            overlay_mtu: self.spec.engine.tun_mtu,
            is_jumbo: self.mtu.min(self.spec.engine.tun_mtu) >= JUMBO_MTU,
            underlay: DeviceRef { index: carrier.index, name: carrier.name.clone() },
            underlay_addr: *self.spec.bind_addr.ip(),
            source_ports: self.source_ports,
            public_ip: self.underlay.iface().public_ip,
        })
    }

    async fn reconcile_device(&mut self) -> Result<Option<Reconciled>, KernelError> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let is_followed = link.mtu != self.mtu;
        link.mtu = self.mtu;
        let mut found = reconcile(&self.net, link, self.owns_route).await?;
        if let Some(found) = &mut found
            && is_followed
        {
            found.repaired.retain(|drift| *drift != Drift::Mtu);
        }
        Ok(found)
    }

    /// Logs what was repaired, and sets the conditions of what could not be.
    fn take_over(&mut self, found: Reconciled, conditions: &mut Conditions) -> Outcome {
        let Reconciled { name, repaired, failed, others, owns_route } = found;
        for drift in &repaired {
            let what = match drift {
                Drift::Address => "had lost its address",
                Drift::Mtu => "had another MTU",
                Drift::Down => "was down",
                Drift::Route => "had lost the route to the network",
            };
            if self.log.is_due(what) {
                warn!("somebody changed {name}: it {what}; restored");
            }
        }
        if !others.is_empty() {
            let others: Vec<String> =
                others.iter().map(|own| format!("{}/{}", own.addr, own.prefix_len)).collect();
            let reason = format!(
                "{name} has an address that is not ours, {}: delete it, or this host's packets \
                 have the wrong source",
                others.join(" ")
            );
            conditions.set("address", Condition::Failed(reason));
        }
        for (what, error) in &failed {
            let name = match what {
                Drift::Address => "address",
                Drift::Mtu | Drift::Down => "device",
                Drift::Route => "route",
            };
            conditions.set(name, Condition::Failed(error_chain(error)));
        }
        self.engine.set_name(name);
        self.owns_route = owns_route;
        match (failed.is_empty(), repaired.is_empty()) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::Repaired,
            (true, true) => Outcome::InSync,
        }
    }

    /// Publishes the conditions, and logs those that changed.
    fn publish(&mut self, mut conditions: Conditions) {
        // Shadows reports these.
        conditions.set("peer_routes", self.conditions.borrow().get("peer_routes"));
        let before = self.conditions.send_replace(conditions.clone());
        conditions.log_changes(&before, &["peer_routes"], &mut self.log);
    }
}

const fn addrs(iface: &ExternalInterface) -> [Ipv4Addr; 2] {
    [iface.addr, iface.public_ip]
}
