//! [`ShortCut`]: when the fast path runs, and whether our lease says that we take what peers' kernels
//! send. See docs/adr/0026-fast-path.md.

mod arrivals;
mod gpe;
mod means;
mod refusal;
mod stats;
mod xdp;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use rand::Rng;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::arrivals::{Arrivals, Trouble, merging_device};
use self::gpe::GpeDevice;
use self::means::{Means, Unfit};
use self::refusal::advice;
pub use self::stats::{FastPathStats, HookStats};
use crate::control::config::daemon::FastPathChoice;
use crate::control::config::network::SubnetRange;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::util::error_chain::error_chain;
use crate::control::util::rng::rng;
use crate::dataplane::fast_path::{
    AttachedBy, DeviceRef, FastConfig, FastPath, FastPathError, Gpe, Hook, Xdp,
    remove_own_left_over,
};

/// How often it is looked at what arrives.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// How long peers may take to learn that our kernel takes nothing any more.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// Where the programs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) overlay: DeviceRef,
    pub(super) overlay_mtu: u16,
    pub(super) underlay: DeviceRef,
    /// What the sockets are bound to, and their ports besides the overlay's.
    pub(super) underlay_addr: Ipv4Addr,
    pub(super) source_ports: [u16; 8],
    /// Where peers send to.
    pub(super) public_ip: Ipv4Addr,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    pub(super) network: SubnetRange<Ipv4Network>,
    pub(super) own: Ipv4Network,
    pub(super) port: u16,
}

/// What the kernel does not do, and why.
#[derive(Debug)]
enum Refused {
    All(String),
    NoXdp(String),
}

/// Why the fast path does not run; `None` while it does. Shared with who reports it.
pub(super) type Reason = Arc<Mutex<Option<String>>>;

/// Starts and stops the fast path.
#[derive(Debug)]
pub(super) struct ShortCut {
    choice: FastPathChoice,
    overlay: Overlay,
    path: Arc<FastPath>,
    reason: Reason,
    /// What the programs were last started for, also if that failed.
    place: Option<(Place, Means)>,
    /// The underlay that does not take XDP, and why.
    no_xdp: Option<(DeviceRef, String)>,
    gpe: Option<GpeDevice>,
    /// What arrived showed that the fast path is not for this host: it stays off.
    is_given_up: bool,
    /// What a killed daemon left on the underlay is removed.
    is_swept: bool,
    /// Our lease says no more that our kernel takes packets; until then it goes on taking them.
    withdrawn_until: Option<Instant>,
    arrivals: Arrivals,
    /// When they are looked at next.
    next_check: Instant,
}

impl ShortCut {
    pub(super) fn new(choice: FastPathChoice, overlay: Overlay, path: Arc<FastPath>) -> Self {
        let reason = (choice == FastPathChoice::Off).then(|| "turned off by flag".to_owned());
        Self {
            choice,
            overlay,
            path,
            reason: Arc::new(Mutex::new(reason)),
            place: None,
            no_xdp: None,
            gpe: None,
            is_given_up: false,
            is_swept: false,
            withdrawn_until: None,
            arrivals: Arrivals::default(),
            next_check: Instant::now(),
        }
    }

    /// Why the fast path does not run, now and later.
    pub(super) fn reason(&self) -> Reason {
        Arc::clone(&self.reason)
    }

    /// Sees to it that the programs run at `place` if they may, and nowhere else. Returns whether our
    /// lease may say that our kernel takes packets.
    pub(super) async fn reconcile(&mut self, net: &Netlink, place: Option<Place>) -> bool {
        if let Some(place) = &place
            && !std::mem::replace(&mut self.is_swept, true)
            && remove_own_left_over(&place.underlay.name, self.overlay.port)
        {
            info!("a filter that a killed flanneld left on {} is removed", place.underlay.name);
        }
        if self.choice == FastPathChoice::Off {
            return false;
        }
        let Some(place) = place else {
            self.stop().await;
            return false;
        };
        match self.means(&place) {
            Ok(means) if self.is_whole(net, &place, means).await => self.path.config().is_some(),
            Ok(means) => self.start_again(net, place, means).await,
            Err(unfit) => self.leave(&unfit).await,
        }
    }

    /// Whether what was started last was started for this, and nobody took a part of it away.
    async fn is_whole(&self, net: &Netlink, place: &Place, means: Means) -> bool {
        let has_gpe = match &self.gpe {
            Some(gpe) => gpe.exists(net).await,
            None => true,
        };
        let lost = self.lost_hook(net).await;
        if let Some(Hook { name, device, .. }) = &lost {
            let device = &device.name;
            warn!(
                "somebody detached the {name} program of the fast path from {device}: attaching it again"
            );
        }
        let is_for_this = self.place.as_ref() == Some(&(place.clone(), means));
        has_gpe && lost.is_none() && self.withdrawn_until.is_none() && is_for_this
    }

    /// A place that somebody else took a program of ours from.
    async fn lost_hook(&self, net: &Netlink) -> Option<Hook> {
        let lost = self.path.lost_link();
        if lost.is_some() {
            return lost;
        }
        for hook in self.path.hooks() {
            if hook.attached_by != AttachedBy::Clsact {
                continue;
            }
            // A kernel that does not answer says nothing about the filter.
            let programs = net.filter_programs(hook.device.index, hook.is_egress()).await;
            if programs.is_ok_and(|programs| !programs.contains(&hook.program_id)) {
                return Some(hook);
            }
        }
        None
    }

    /// Stops what runs, and starts it at `place`; whether that worked.
    async fn start_again(&mut self, net: &Netlink, place: Place, mut means: Means) -> bool {
        self.stop().await;
        let started = loop {
            let reason = match self.start(net, &place, means).await {
                Ok(()) => break Ok(()),
                Err(Refused::All(reason)) => break Err(reason),
                Err(Refused::NoXdp(reason)) => reason,
            };
            self.no_xdp = Some((place.underlay.clone(), reason.clone()));
            means = match self.means(&place) {
                Ok(means) => means,
                Err(unfit) => return self.leave(&unfit).await,
            };
            warn!("fast path without XDP: {reason}");
        };
        let underlay = place.underlay.name.clone();
        self.place = Some((place, means));
        if let Err(reason) = started {
            // It is tried again when the place is another.
            self.detach().await;
            self.set_reason(Some(&reason), true);
            return false;
        }
        let by = if matches!(means, Means::Gpe { .. }) { "" } else { ", by XDP" };
        info!(
            %underlay,
            "fast path is on: the kernel carries TCP, ICMP and sparse UDP to such peers{by}"
        );
        self.set_reason(None, false);
        true
    }

    /// Number of the vxlan device.
    pub(super) fn gpe_index(&self) -> Option<u32> {
        self.gpe.as_ref().map(GpeDevice::index)
    }

    async fn start(&mut self, net: &Netlink, place: &Place, means: Means) -> Result<(), Refused> {
        let vni = rng().random_range(1..1 << 24);
        let mut xdp = None;
        let gpe = match means {
            Means::Gpe { merges } => {
                let gpe = GpeDevice::make(net, &place.overlay.name, self.overlay.port).await;
                let gpe = gpe.map_err(|error: KernelError| {
                    let missing = error.source.raw_os_error() == Some(libc::EOPNOTSUPP);
                    let help = if missing { "; it takes the kernel's module vxlan" } else { "" };
                    let error = error_chain(&error);
                    Refused::All(format!(
                        "no vxlan device to take superpackets apart: {error}{help}"
                    ))
                })?;
                Some((gpe, merges))
            }
            Means::Xdp(mac) => {
                xdp = Some(Xdp { mac, mark: rng().random_range(1..=u32::MAX) });
                None
            }
        };
        let gpe_config = gpe.as_ref().map(|(gpe, merges)| gpe.as_config(vni, *merges));
        let config = self.config(place, gpe_config, xdp);
        self.gpe = gpe.map(|(gpe, _)| gpe);
        let gro_merges = means != Means::Gpe { merges: false };
        self.arrivals = Arrivals::after(self.path.counters(), gro_merges);
        // The verifier takes a tenth of a second, and a driver may take more, in which leases are to
        // be followed.
        let path = Arc::clone(&self.path);
        let started = spawn_blocking(move || path.start(config)).await;
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ FastPathError::NoXdp { .. })) => {
                debug!("fast path: {}", error_chain(&error));
                Err(Refused::NoXdp(xdp::refusal(net, &place.underlay, &error).await))
            }
            Ok(Err(error)) => Err(Refused::All(advice(&error))),
            Err(error) => Err(Refused::All(format!("load the BPF programs: {error}"))),
        }
    }

    fn config(&self, place: &Place, gpe: Option<Gpe>, xdp: Option<Xdp>) -> FastConfig {
        let Overlay { network: SubnetRange { network, subnet_len, .. }, own, port } = self.overlay;
        let Place { overlay, overlay_mtu, underlay, underlay_addr, source_ports, .. } =
            place.clone();
        let own_mask = u32::MAX.checked_shl(32 - u32::from(own.prefix())).unwrap_or(0);
        FastConfig {
            network: network.network(),
            slot_shift: 32 - subnet_len.min(32),
            num_slots: u32::try_from(self.path.num_slots()).unwrap_or(0),
            own_subnet: (own.network(), own_mask),
            underlay_addr,
            underlay,
            overlay,
            overlay_mtu,
            port,
            source_ports,
            gpe,
            xdp,
            attach_by: AttachedBy::best(),
        }
    }

    /// Detaches the programs at once: the device is gone, or was never served.
    async fn stop(&mut self) {
        self.place = None;
        self.detach().await;
    }

    /// On a thread of its own: a driver may take seconds, in which leases are to be followed.
    async fn detach(&mut self) {
        self.withdrawn_until = None;
        let (path, gpe) = (Arc::clone(&self.path), self.gpe.take());
        let detach = move || {
            path.stop();
            drop(gpe);
        };
        if let Err(error) = spawn_blocking(detach).await {
            warn!("detach the BPF programs: {error}");
        }
    }

    /// Leaves an underlay for which the fast path is not; false, as our lease is to say nothing of it.
    async fn leave(&mut self, unfit: &Unfit) -> bool {
        if self.withdraw(&unfit.reason, unfit.is_fault) {
            self.stop().await;
        }
        false
    }

    /// Sends nothing more; takes what peers send until they know better. Whether they do.
    fn withdraw(&mut self, reason: &str, is_fault: bool) -> bool {
        if self.path.config().is_none() {
            self.set_reason(Some(reason), is_fault);
            return false;
        }
        if let Some(until) = self.withdrawn_until {
            return Instant::now() >= until;
        }
        self.path.stop_sending();
        self.set_reason(Some(reason), is_fault);
        self.withdrawn_until = Some(Instant::now() + WITHDRAWAL);
        false
    }

    /// Waits until what arrives shows that the fast path is not for this host, and turns it off.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn given_up(&mut self) {
        let Some(config) = self.path.config().filter(|_| !self.is_given_up) else {
            return std::future::pending().await;
        };
        let (trouble, reason) = loop {
            sleep_until(self.next_check).await;
            self.next_check = Instant::now() + WATCH_PERIOD;
            let trouble = self.arrivals.trouble(self.path.counters());
            if let Some(trouble) = trouble
                && let Some(reason) = trouble.reason(&config)
            {
                break (trouble, reason);
            }
        };
        self.is_given_up = true;
        if trouble == Trouble::Stuck {
            // Packets are taken as they come until peers know that they are to send none.
            self.path.bypass_gpe();
        }
        let is_fault = trouble == Trouble::Stuck || merging_device(&config).is_some();
        self.withdraw(&reason, is_fault);
    }

    fn current_reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs a reason that is new: a warning if somebody can do something about it.
    fn set_reason(&self, reason: Option<&str>, is_fault: bool) {
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) if known.as_deref() == Some(reason) => {}
            Some(reason) if is_fault => {
                warn!("fast path is off, workers carry everything: {reason}")
            }
            Some(reason) => info!("fast path is off, workers carry everything: {reason}"),
            None => {}
        }
        *known = reason.map(str::to_owned);
    }
}
