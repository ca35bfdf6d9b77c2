//! [`ShortCut`]: when the fast path runs, and whether our lease says that we take what peers' kernels
//! send. See docs/adr/0026-fast-path.md.

mod gpe;

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use rand::Rng;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::gpe::GpeDevice;
use crate::control::config::daemon::FastPathChoice;
use crate::control::config::network::SubnetRange;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::util::error_chain::error_chain;
use crate::control::util::rng::rng;
use crate::dataplane::fast_path::{
    DeviceRef, FastConfig, FastCounters, FastPath, FastPathError, Wire, wire,
};

/// How often it is looked at what arrives.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Periods in a row in which what arrives is not what the fast path is for, until it is given up.
const MAX_BAD_PERIODS: u32 = 2;

/// A wire is one of single frames if so many long ones come in a period, and so many times more than
/// superpackets: where superpackets come, a flow ends one with a shorter frame now and then.
const MANY_FRAMES: u64 = 5000;
const FRAMES_TO_SUPERPACKETS: u64 = 10;

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
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    pub(super) network: SubnetRange<Ipv4Network>,
    pub(super) own: Ipv4Network,
    pub(super) port: u16,
}

/// What `/stats` says of the fast path.
#[derive(Debug, Clone, Serialize)]
pub struct FastPathStats {
    /// Whether the kernel carries packets by itself.
    pub active: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it carried, and what it left to the workers.
    #[serde(flatten)]
    pub counters: FastCounters,
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
    place: Option<Place>,
    gpe: Option<GpeDevice>,
    /// What arrived showed that the fast path is not for this host: it stays off.
    is_given_up: bool,
    /// Our lease says no more that our kernel takes packets; until then it goes on taking them.
    withdrawn_until: Option<Instant>,
    arrivals: Arrivals,
    /// When they are looked at next.
    next_check: Instant,
}

/// What has arrived from peers, and for how many periods something was wrong with it.
#[derive(Debug, Default, Clone)]
struct Arrivals {
    counters: FastCounters,
    stuck: u32,
    framed: u32,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Superpackets go into the device that takes them apart, and none comes out.
    Stuck,
    /// Bulk flows come in single frames.
    Frames,
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
            gpe: None,
            is_given_up: false,
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
        if self.choice == FastPathChoice::Off {
            return false;
        }
        let Some(place) = place else {
            self.stop();
            return false;
        };
        if let Err(reason) = self.check(&place) {
            self.withdraw(&reason, false);
            return false;
        }
        let is_whole = match &self.gpe {
            Some(gpe) => gpe.exists(net).await,
            None => true,
        };
        let is_whole = is_whole && self.withdrawn_until.is_none();
        if is_whole && self.place.as_ref() == Some(&place) {
            return self.path.config().is_some();
        }
        self.stop();
        self.place = Some(place.clone());
        match self.start(net, &place).await {
            Ok(()) => {
                let underlay = &place.underlay.name;
                info!(%underlay, "fast path is on: the kernel carries TCP, ICMP and sparse UDP to such peers");
                self.set_reason(None, false);
                true
            }
            Err(reason) => {
                self.stop_at(&reason);
                false
            }
        }
    }

    /// Number of the device that takes superpackets apart.
    pub(super) fn gpe_index(&self) -> Option<u32> {
        self.gpe.as_ref().map(GpeDevice::index)
    }

    /// Whether the fast path is worth it there, or else why not.
    fn check(&self, place: &Place) -> Result<(), String> {
        if self.is_given_up {
            return Err(self.current_reason().unwrap_or_default());
        }
        if self.path.num_slots() == 0 {
            return Err("the network has too many subnets for one array".to_owned());
        }
        let name = &place.underlay.name;
        match wire(name) {
            Ok(Wire::Superpackets) => Ok(()),
            Ok(Wire::Frames { driver }) => {
                let driver = if driver.is_empty() { "no driver" } else { driver.as_str() };
                Err(format!(
                    "{name} ({driver}) carries single frames: the workers are faster there"
                ))
            }
            Err(error) => Err(format!("{name} does not say what it carries: {error}")),
        }
    }

    async fn start(&mut self, net: &Netlink, place: &Place) -> Result<(), String> {
        let gpe = GpeDevice::make(net, &place.overlay.name, self.overlay.port);
        let gpe = gpe.await.map_err(|error: KernelError| {
            format!("no vxlan device to take superpackets apart: {}", error_chain(&error))
        })?;
        let vni = rng().random_range(1..1 << 24);
        let config = self.config(place, &gpe, vni);
        self.gpe = Some(gpe);
        self.arrivals = Arrivals { counters: self.path.counters(), ..Arrivals::default() };
        // The verifier takes a tenth of a second, in which leases are to be followed.
        let path = Arc::clone(&self.path);
        let started = spawn_blocking(move || path.start(config)).await;
        let started = started.map_err(|error| format!("load the BPF programs: {error}"))?;
        started.map_err(|error| advice(&error))
    }

    fn config(&self, place: &Place, gpe: &GpeDevice, vni: u32) -> FastConfig {
        let Overlay { network: SubnetRange { network, subnet_len, .. }, own, port } = self.overlay;
        let Place { overlay, overlay_mtu, underlay, underlay_addr, source_ports } = place.clone();
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
            gpe: Some(gpe.as_config(vni)),
        }
    }

    /// Detaches the programs at once: the device is gone, or was never served.
    fn stop(&mut self) {
        self.path.stop();
        (self.place, self.gpe, self.withdrawn_until) = (None, None, None);
    }

    /// The same, for a reason that lasts as long as the place is the same.
    fn stop_at(&mut self, reason: &str) {
        self.path.stop();
        self.gpe = None;
        self.withdrawn_until = None;
        self.set_reason(Some(reason), true);
    }

    /// Sends nothing more; takes what peers send until they know better.
    fn withdraw(&mut self, reason: &str, is_fault: bool) {
        if self.path.config().is_none() {
            self.set_reason(Some(reason), is_fault);
            return;
        }
        match self.withdrawn_until {
            None => {
                self.path.stop_sending();
                self.set_reason(Some(reason), is_fault);
                self.withdrawn_until = Some(Instant::now() + WITHDRAWAL);
            }
            Some(until) if Instant::now() >= until => {
                self.stop();
            }
            Some(_) => {}
        }
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
            // Superpackets are taken as they are until peers know that they are to send none.
            self.path.bypass_gpe();
        }
        self.withdraw(&reason, trouble == Trouble::Stuck);
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

impl Trouble {
    /// The same in words, for a device that has it.
    fn reason(self, config: &FastConfig) -> Option<String> {
        match self {
            Self::Stuck => config.gpe.as_ref().map(|gpe| {
                format!(
                    "superpackets from peers do not reach {}: let UDP port {} in from the peers, and \
                     restart flanneld",
                    gpe.device.name, gpe.port
                )
            }),
            Self::Frames => Some(format!(
                "peers' packets reach {} in single frames: the workers are faster there",
                config.underlay.name
            )),
        }
    }
}

impl Arrivals {
    /// Takes over what was counted in one more period; what has been wrong for some of them.
    fn trouble(&mut self, now: FastCounters) -> Option<Trouble> {
        let before = std::mem::replace(&mut self.counters, now);
        let num_in = self.counters.gpe_in - before.gpe_in;
        let num_out = self.counters.gpe_out - before.gpe_out;
        let num_frames = self.counters.frames - before.frames;
        let is_stuck = num_in > 0 && num_out == 0;
        let is_framed = num_frames >= MANY_FRAMES.max(FRAMES_TO_SUPERPACKETS * num_in);
        self.stuck = if is_stuck { self.stuck + 1 } else { 0 };
        self.framed = if is_framed { self.framed + 1 } else { 0 };
        if self.stuck >= MAX_BAD_PERIODS {
            return Some(Trouble::Stuck);
        }
        (self.framed >= MAX_BAD_PERIODS).then_some(Trouble::Frames)
    }
}

/// What the error says, and what would help.
fn advice(error: &FastPathError) -> String {
    // The whole of it holds what the verifier of the kernel says, which is many lines.
    debug!("fast path: {}", error_chain(error));
    let text = match error.errno() {
        Some(errno) => format!("{error}: {}", io::Error::from_raw_os_error(errno)),
        None => error.to_string(),
    };
    let help = match error.errno() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it takes CAP_BPF and CAP_NET_ADMIN, in systemd's unit also SystemCallFilter=bpf, and \
             no lockdown of the kernel"
        }
        Some(libc::ENOMEM) => "; it takes locked memory: see LimitMEMLOCK of systemd's unit",
        Some(libc::ENOSYS | libc::EINVAL) => "; it takes Linux 5.12 with CONFIG_BPF_SYSCALL",
        Some(_) | None => "",
    };
    text + help
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong after periods with these sums of superpackets in and out, and of frames.
    fn trouble(sums: &[(u64, u64, u64)]) -> Option<Trouble> {
        let mut arrivals = Arrivals::default();
        let counters = |&(gpe_in, gpe_out, frames)| {
            arrivals.trouble(FastCounters { gpe_in, gpe_out, frames, ..FastCounters::default() })
        };
        sums.iter().map(counters).last().flatten()
    }

    #[test]
    fn device_that_swallows_superpackets_is_noticed_and_an_idle_one_is_not() {
        assert_eq!(trouble(&[(0, 0, 0), (0, 0, 0), (0, 0, 0)]), None);
        assert_eq!(trouble(&[(10, 9, 0), (20, 20, 0), (21, 20, 0), (21, 21, 0)]), None);
        assert_eq!(trouble(&[(5, 0, 0), (5, 0, 0), (5, 0, 0)]), None, "nothing new went in");
        assert_eq!(trouble(&[(5, 0, 0), (6, 0, 0)]), Some(Trouble::Stuck));
    }

    #[test]
    fn wire_of_single_frames_is_noticed_and_the_ends_of_superpackets_are_not() {
        assert_eq!(trouble(&[(0, 0, 9000), (0, 0, 18_000)]), Some(Trouble::Frames));
        assert_eq!(trouble(&[(0, 0, 9000), (0, 0, 9100)]), None, "it was short");
        assert_eq!(trouble(&[(9000, 9000, 9000), (18_000, 18_000, 18_000)]), None);
        assert_eq!(trouble(&[(0, 0, 100), (0, 0, 200), (0, 0, 300)]), None, "hardly anything");
    }
}
