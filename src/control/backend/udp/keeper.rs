//! [`Keeper`]: keeps device, address and route as they should be, and looks after the external
//! interface.
//!
//! It looks when the kernel tells of a change, and now and then without; what somebody changed is
//! put right, what is not ours to change is told. It works in a task of its own, so that peers'
//! leases are followed meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::device::{Device, Recipe};
use super::underlay::Underlay;
use crate::control::backend::BackendError;
use crate::control::host_state::{HostState, Part};
use crate::control::log_limit::LogLimit;
use crate::control::one_line::one_line;
use crate::dataplane::engine::Counters;
use crate::dataplane::{Engine, EngineError};
use crate::routes::kernel::{
    HostChange, HostChanges, HostNet, KernelError, Look, Mended, Netlink, OverlayLink, mend,
};

/// Changes come in rows: what is told within this time is one.
const SETTLE: Duration = Duration::from_millis(50);

/// Time between two looks that nothing prompted: the routes that go with the last address of their
/// link go unannounced, and a message may be lost.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// How soon it is tried again to put right what could not be.
const RETRY: Duration = Duration::from_secs(1);

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
    engine: Option<Engine>,
}

impl Running {
    /// Those of `engine`, which count in `counters`.
    pub(super) const fn new(name: String, engine: Engine, counters: Counters) -> Self {
        Self { served: Mutex::new(Served { name, engine: Some(engine) }), counters }
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

/// Looks after one device.
#[derive(Debug)]
pub(super) struct Keeper {
    net: Netlink,
    changes: HostChanges,
    recipe: Recipe,
    underlay: Underlay,
    running: Arc<Running>,
    /// The device as it should be; `None` while there is none.
    link: Option<OverlayLink>,
    /// MTU of the device in bytes, the next one's too.
    mtu: u16,
    /// The route to the Network was ours, so whoever replaced it took it from us.
    owns_route: bool,
    failures: mpsc::Receiver<EngineError>,
    state: watch::Sender<HostState>,
    log: LogLimit,
}

impl Keeper {
    /// Takes over a device that was just made by `recipe`, and its workers.
    pub(super) fn new(
        (net, changes): (Netlink, HostChanges),
        recipe: Recipe,
        underlay: Underlay,
        device: Device,
    ) -> Self {
        let Device { name, link, owns_route, engine, failures } = device;
        let running = Arc::new(Running::new(name, engine, recipe.counters.clone()));
        let state = watch::Sender::default();
        let (link, mtu, log) = (Some(link), link.mtu, LogLimit::default());
        Self {
            net,
            changes,
            recipe,
            underlay,
            running,
            link,
            mtu,
            owns_route,
            failures,
            state,
            log,
        }
    }

    /// The workers, for whoever reads counters or ends them.
    pub(super) fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running)
    }

    /// Where others than us may tell of what they look at.
    pub(super) fn teller(&self) -> watch::Sender<HostState> {
        self.state.clone()
    }

    /// Whether all is in place, now and at every change.
    pub(super) fn state(&self) -> watch::Receiver<HostState> {
        self.state.subscribe()
    }

    /// Looks after the device until a worker fails while the device is there.
    pub(super) async fn keep(mut self) -> BackendError {
        loop {
            let period = match self.look().await {
                true => LOOK_PERIOD,
                false => RETRY,
            };
            let period = sleep(period);
            tokio::pin!(period);
            loop {
                tokio::select! {
                    Some(failure) = self.failures.recv() => {
                        let is_panic = matches!(failure, EngineError::Panicked { .. });
                        if is_panic || self.has_device().await {
                            return BackendError::Engine(failure);
                        }
                        break;
                    }
                    Some(change) = self.changes.next() => {
                        if self.concerns_us(change) {
                            sleep(SETTLE).await;
                            self.changes.drain();
                            break;
                        }
                    }
                    () = &mut period => break,
                }
            }
        }
    }

    fn concerns_us(&self, change: HostChange) -> bool {
        match change {
            HostChange::Link | HostChange::Addr | HostChange::Missed => true,
            HostChange::Route(dst) => dst == self.recipe.network,
        }
    }

    /// Whether the device exists, as far as we can tell.
    async fn has_device(&self) -> bool {
        match self.link {
            Some(link) => !matches!(self.net.link_at(link.index).await, Ok(None)),
            None => false,
        }
    }

    /// Looks at everything, and puts right what is ours. Returns whether that worked.
    async fn look(&mut self) -> bool {
        let mut state = HostState::default();
        let looked = self.look_at_host(&mut state).await;
        if let Err(error) = &looked {
            state.device = Part::Amiss(one_line(error));
        }
        self.publish(state);
        looked.is_ok()
    }

    async fn look_at_host(&mut self, state: &mut HostState) -> Result<(), BackendError> {
        let addrs = self.net.addrs().await.map_err(BackendError::Kernel)?;
        let carrier = self.underlay.link(&self.net, &addrs).await.map_err(BackendError::Kernel)?;
        state.underlay = self.underlay.judge(carrier.as_ref());
        if let Some(carrier) = &carrier {
            self.mtu = self.underlay.tun_mtu(carrier);
        }
        let mended = self.mend(&addrs).await.map_err(BackendError::Kernel)?;
        match mended {
            Some(look) => self.take_over(&look),
            None => self.make_anew().await?,
        }
        if !self.owns_route {
            state.route = Part::Amiss(format!(
                "the route to {} leaves by another link: delete it, or its packets miss us",
                self.recipe.network
            ));
        }
        Ok(())
    }

    async fn mend(
        &mut self,
        addrs: &[(u32, std::net::Ipv4Addr)],
    ) -> Result<Option<Look>, KernelError> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let is_followed = link.mtu != self.mtu;
        link.mtu = self.mtu;
        let mut look = mend(&self.net, link, addrs, self.owns_route).await?;
        if let Some(look) = &mut look
            && is_followed
        {
            look.mended.retain(|mended| *mended != Mended::Mtu);
        }
        Ok(look)
    }

    /// Tells what somebody changed.
    fn take_over(&mut self, look: &Look) {
        for mended in &look.mended {
            let what = match mended {
                Mended::Address => "had lost its address",
                Mended::Mtu => "had another MTU",
                Mended::Down => "was down",
                Mended::Route => "had lost the route to the network",
            };
            if self.log.is_due(what) {
                warn!("somebody changed {}: it {what}; put right", look.name);
            }
        }
        self.running.lock().name.clone_from(&look.name);
        self.owns_route = look.owns_route;
    }

    /// Makes the device again, with workers and sockets; the counters go on.
    async fn make_anew(&mut self) -> Result<(), BackendError> {
        let name = self.running.name();
        if self.link.take().is_some() {
            if self.log.is_due("gone") {
                warn!("somebody deleted {name}: making it anew");
            }
            let device = Part::Amiss(format!("{name} is gone"));
            self.state.send_modify(|state| state.device = device);
        }
        self.running.stop();
        let sockets = self.recipe.bind()?;
        let made = self.recipe.make(&self.net, self.mtu, Some(&name), sockets).await?;
        let Device { name, link, owns_route, engine, failures } = made;
        info!(device = %name, mtu = link.mtu, "overlay device is up again");
        *self.running.lock() = Served { name, engine: Some(engine) };
        (self.link, self.owns_route, self.failures) = (Some(link), owns_route, failures);
        Ok(())
    }

    /// Lets everybody know how it stands, and the log what is another way than before.
    fn publish(&mut self, mut state: HostState) {
        // The routes beside ours are looked at, and told of, elsewhere.
        state.peer_routes = self.state.borrow().peer_routes.clone();
        let before = self.state.send_replace(state.clone());
        for ((name, now), (_, before)) in state.parts().into_iter().zip(before.parts()) {
            if name == "peer_routes" {
                continue;
            }
            match (now, before) {
                (Part::Amiss(reason), _) if now != before || self.log.is_due(reason) => {
                    // Said now: not again for a minute.
                    self.log.is_due(reason);
                    warn!("{name} is amiss: {reason}");
                }
                (Part::InPlace, Part::Amiss(_)) => info!("{name} is in place again"),
                (Part::InPlace | Part::Amiss(_), _) => {}
            }
        }
    }
}
