//! [`Keeper`]: keeps device, address and route as they should be, and looks after the external
//! interface.
//!
//! It looks when the kernel tells of a change, and now and then without; what somebody changed is
//! put right, what is not ours to change is told. It works in a task of its own, so that peers'
//! leases are followed meanwhile.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::device::{Device, Recipe};
use super::source_ports;
use super::underlay::{Underlay, room};
use crate::control::backend::BackendError;
use crate::control::conditions::{Condition, Conditions};
use crate::control::config::daemon::SourcePorts;
use crate::control::host::iface::ExternalInterface;
use crate::control::host::net::{
    HostChange, HostChanges, HostNet, KernelError, Look, Mended, Netlink, OverlayLink, mend,
};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::backoff::Backoff;
use crate::control::util::error_chain::one_line;
use crate::control::util::log_limit::LogLimit;
use crate::dataplane::engine::Counters;
use crate::dataplane::io::udp::KernelUdp;
use crate::dataplane::{Engine, EngineError};

/// Changes come in rows: what is told within this time is one.
const SETTLE: Duration = Duration::from_millis(50);

/// Time between two looks that nothing prompted: the routes that go with the last address of their
/// link go unannounced, and a message may be lost.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// How soon it is tried again to put right what could not be, at first and in the end.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Each look that found something to do is paid with so much time, and so much may be owed: who
/// undoes our work at once, and for ever, has us do it again once a second.
const CONTEST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

/// Names of the conditions.
const CONDITIONS: [&str; 5] = ["device", "address", "route", "peer_routes", "underlay"];

/// The device's workers, while there are some.
#[derive(Debug)]
pub(super) struct Running {
    served: Mutex<Served>,
    counters: Counters,
}

#[derive(Debug)]
struct Served {
    /// The device's name, or its last one.
    name: String,
    /// The address that is bound to, and the one that peers send to.
    own: [Ipv4Addr; 2],
    engine: Option<Engine>,
}

impl Running {
    /// Those of `engine`, which count in `counters`.
    pub(super) const fn new(
        name: String,
        own: [Ipv4Addr; 2],
        engine: Engine,
        counters: Counters,
    ) -> Self {
        Self { served: Mutex::new(Served { name, own, engine: Some(engine) }), counters }
    }

    /// The address that is bound to, and the one that peers send to.
    pub(super) fn own(&self) -> [Ipv4Addr; 2] {
        self.lock().own
    }

    /// The device's name.
    pub(super) fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// What the workers count, and those before them.
    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends the workers. The device goes, if it is there still.
    pub(super) fn stop(&self) {
        let engine = self.lock().engine.take();
        drop(engine);
    }

    fn lock(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What our lease says of us, and what that follows from.
#[derive(Debug)]
pub(super) struct Says {
    /// The operator's choice.
    pub(super) source_ports: SourcePorts,
    /// What tells this host from others, if it is known.
    pub(super) host: Option<HostId>,
    /// What the lease is to say.
    pub(super) attrs: watch::Sender<LeaseAttrs>,
}

/// Looks after one device.
#[derive(Debug)]
pub(super) struct Keeper {
    net: Netlink,
    changes: HostChanges,
    recipe: Recipe,
    underlay: Underlay,
    says: Says,
    running: Arc<Running>,
    /// The device as it should be; `None` while there is none.
    link: Option<OverlayLink>,
    /// MTU of the device in bytes, the next one's too.
    mtu: u16,
    /// The route to the Network was ours, so whoever replaced it took it from us.
    owns_route: bool,
    failures: mpsc::Receiver<EngineError>,
    state: watch::Sender<Conditions>,
    retry: Backoff,
    contest: Contest,
    log: LogLimit,
}

/// Keeps us from working against somebody else without a pause.
#[derive(Debug)]
struct Contest {
    /// When all looks that had something to do are paid for.
    paid_at: Instant,
}

impl Contest {
    /// How long to wait after such a look.
    fn delay(&mut self) -> Duration {
        let now = Instant::now();
        self.paid_at = self.paid_at.max(now) + CONTEST.0;
        (self.paid_at - now).saturating_sub(CONTEST.1)
    }
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// There was nothing to do.
    AllRight,
    /// Something was put right. The kernel will tell us of that, too.
    Mended,
    /// Something is still wrong.
    Failed,
}

impl Keeper {
    /// Takes over a device that was just made by `recipe`, and its workers.
    pub(super) fn new(
        (net, changes): (Netlink, HostChanges),
        recipe: Recipe,
        underlay: Underlay,
        says: Says,
        device: Device,
    ) -> Self {
        let Device { name, link, owns_route, engine, failures } = device;
        let running =
            Arc::new(Running::new(name, addrs(underlay.iface()), engine, recipe.counters.clone()));
        Self {
            net,
            changes,
            recipe,
            underlay,
            says,
            running,
            link: Some(link),
            mtu: link.mtu,
            owns_route,
            failures,
            state: watch::Sender::new(Conditions::ok(&CONDITIONS)),
            retry: Backoff::new(RETRY.0, RETRY.1),
            contest: Contest { paid_at: Instant::now() },
            log: LogLimit::default(),
        }
    }

    /// The workers, for whoever reads counters or ends them.
    pub(super) fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running)
    }

    /// Where others than us may tell of what they look at.
    pub(super) fn teller(&self) -> watch::Sender<Conditions> {
        self.state.clone()
    }

    /// Whether all is in place, now and at every change.
    pub(super) fn state(&self) -> watch::Receiver<Conditions> {
        self.state.subscribe()
    }

    /// What our lease is to say of us, now and at every change.
    pub(super) fn attrs(&self) -> watch::Receiver<LeaseAttrs> {
        self.says.attrs.subscribe()
    }

    /// Looks after the device until a worker fails while the device is there.
    pub(super) async fn keep(mut self) -> BackendError {
        loop {
            let looked = self.look().await;
            if let Some(failure) = self.wait(looked).await {
                return BackendError::Engine(failure);
            }
        }
    }

    /// Until the next look. Returns a worker's failure that is the end.
    async fn wait(&mut self, looked: Looked) -> Option<EngineError> {
        let start = Instant::now();
        let (mut earliest, latest) = match looked {
            Looked::AllRight => (SETTLE, LOOK_PERIOD),
            Looked::Mended => (self.contest.delay().max(SETTLE), LOOK_PERIOD),
            Looked::Failed => (self.contest.delay().max(SETTLE), self.retry.delay()),
        };
        if looked != Looked::Failed {
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
                    if looked == Looked::Failed && self.underlay.followed().is_concerned_by(change) {
                        // That may be what was missing.
                        earliest = SETTLE;
                        break;
                    }
                    if self.is_concerned_by(change) {
                        break;
                    }
                }
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
        let is_ours = |index| self.link.is_some_and(|link| link.index == index);
        self.underlay.followed().is_concerned_by(change)
            || match change {
                HostChange::Link(index) | HostChange::Addr(index, _) => is_ours(index),
                HostChange::Route(dst) => dst == self.recipe.network,
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

    /// Looks at everything, and puts right what is ours.
    async fn look(&mut self) -> Looked {
        let mut state = Conditions::ok(&CONDITIONS);
        let looked = self.look_at_host(&mut state).await.unwrap_or_else(|error| {
            state.set("device", Condition::Failed(one_line(&error)));
            Looked::Failed
        });
        self.publish(state);
        looked
    }

    async fn look_at_host(&mut self, state: &mut Conditions) -> Result<Looked, BackendError> {
        let carrier =
            self.underlay.followed_mut().link(&self.net).await.map_err(BackendError::Kernel)?;
        state.set("underlay", self.underlay.judge(carrier.as_ref()));
        match &carrier {
            Some(carrier) => self.mtu = self.underlay.tun_mtu(carrier),
            None => {
                if self.follow_underlay().await? {
                    state.set("underlay", Condition::Ok);
                    return Ok(Looked::Mended);
                }
            }
        }
        let mended = self.mend().await.map_err(BackendError::Kernel)?;
        let looked = match mended {
            Some(look) => self.take_over(look, state),
            None => {
                self.give_up_device();
                // Before the device: without sockets it would be made in vain, again and again.
                let sockets = self.recipe.bind()?;
                self.make_anew(sockets).await?;
                Looked::Mended
            }
        };
        if !self.owns_route && state.get("route").is_ok() {
            let reason = format!(
                "the route to {} leaves by another link: delete it, or its packets miss us",
                self.recipe.network
            );
            state.set("route", Condition::Failed(reason));
        }
        Ok(looked)
    }

    async fn mend(&mut self) -> Result<Option<Look>, KernelError> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let is_followed = link.mtu != self.mtu;
        link.mtu = self.mtu;
        let mut look = mend(&self.net, link, self.owns_route).await?;
        if let Some(look) = &mut look
            && is_followed
        {
            look.mended.retain(|mended| *mended != Mended::Mtu);
        }
        Ok(look)
    }

    /// Tells what somebody changed, and what could not be put right.
    fn take_over(&mut self, look: Look, state: &mut Conditions) -> Looked {
        let Look { name, mended, failed, others, owns_route } = look;
        for mended in &mended {
            let what = match mended {
                Mended::Address => "had lost its address",
                Mended::Mtu => "had another MTU",
                Mended::Down => "was down",
                Mended::Route => "had lost the route to the network",
            };
            if self.log.is_due(what) {
                warn!("somebody changed {name}: it {what}; put right");
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
            state.set("address", Condition::Failed(reason));
        }
        for (what, error) in &failed {
            let name = match what {
                Mended::Address => "address",
                Mended::Mtu | Mended::Down => "device",
                Mended::Route => "route",
            };
            state.set(name, Condition::Failed(one_line(error)));
        }
        self.running.lock().name = name;
        self.owns_route = owns_route;
        match (failed.is_empty(), mended.is_empty()) {
            (false, _) => Looked::Failed,
            (true, false) => Looked::Mended,
            (true, true) => Looked::AllRight,
        }
    }

    /// Takes up another address, if ours is gone for good and there is one. Returns whether that
    /// was so.
    async fn follow_underlay(&mut self) -> Result<bool, BackendError> {
        let overlay = self.link.map(|link| link.index);
        let successor = self.underlay.followed().successor(&self.net, overlay).await;
        let Some(iface) = successor.map_err(BackendError::Kernel)? else { return Ok(false) };
        let bind_addr = self.recipe.bind_addr;
        self.recipe.bind_addr.set_ip(iface.addr);
        // The old sockets and the device stay until there are new ones.
        let sockets = match self.recipe.bind() {
            Ok(sockets) => sockets,
            Err(error) => {
                self.recipe.bind_addr = bind_addr;
                return Err(error);
            }
        };
        let old = self.underlay.iface();
        warn!(
            "address {} of interface {} is gone: using {} of {} from now on, peers send to {}",
            old.addr, old.name, iface.addr, iface.name, iface.public_ip
        );
        let attrs = source_ports::attrs(&iface, self.says.source_ports, self.says.host.as_ref());
        self.recipe.engine.longest_whole = room(iface.mtu);
        self.underlay.followed_mut().follow(iface);
        let is_new = |said: &mut LeaseAttrs| {
            let is_new = *said != attrs;
            *said = attrs.clone();
            is_new
        };
        self.says.attrs.send_if_modified(is_new);
        self.link = None;
        self.running.stop();
        self.make_anew(sockets).await?;
        Ok(true)
    }

    /// The device is gone, so its workers go, too.
    fn give_up_device(&mut self) {
        if self.link.take().is_some() {
            let name = self.running.name();
            if self.log.is_due("gone") {
                warn!("overlay device {name} disappeared; recreating it");
            }
            let device = Condition::Failed(format!("{name} is gone"));
            self.state.send_modify(|state| state.set("device", device));
        }
        self.running.stop();
    }

    /// Makes the device again, with workers that have these sockets; the counters go on.
    async fn make_anew(&mut self, sockets: Vec<KernelUdp>) -> Result<(), BackendError> {
        let name = self.running.name();
        let made = self.recipe.make(&self.net, self.mtu, Some(&name), sockets).await?;
        let Device { name, link, owns_route, engine, failures } = made;
        info!(device = %name, mtu = link.mtu, "overlay device is up again");
        let own = addrs(self.underlay.iface());
        *self.running.lock() = Served { name, own, engine: Some(engine) };
        (self.link, self.owns_route, self.failures) = (Some(link), owns_route, failures);
        Ok(())
    }

    /// Publishes the conditions, and logs those that changed.
    fn publish(&mut self, mut state: Conditions) {
        // Shadows reports these.
        state.set("peer_routes", self.state.borrow().get("peer_routes"));
        let before = self.state.send_replace(state.clone());
        state.log_changes(&before, &["peer_routes"], &mut self.log);
    }
}

const fn addrs(iface: &ExternalInterface) -> [Ipv4Addr; 2] {
    [iface.addr, iface.public_ip]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_accidents_are_put_right_at_once_and_endless_ones_once_a_second() {
        let mut contest = Contest { paid_at: Instant::now() };
        for _ in 0..16 {
            assert_eq!(contest.delay(), Duration::ZERO);
        }
        let start = Instant::now();
        for _ in 0..10 {
            sleep(contest.delay()).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(contest.delay(), Duration::ZERO);
    }
}
