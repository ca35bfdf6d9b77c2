//! [`ShortCut`]: when the fast path runs, and whether our lease says that we take what peers' kernels
//! send. See docs/adr/0026-fast-path.md.

mod gpe;
mod refusal;
mod stats;
mod xdp;

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use rand::Rng;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::gpe::GpeDevice;
use self::refusal::advice;
pub use self::stats::{FastPathStats, HookStats};
use crate::control::config::daemon::FastPathChoice;
use crate::control::config::network::SubnetRange;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::util::error_chain::error_chain;
use crate::control::util::rng::rng;
use crate::dataplane::fast_path::{
    AttachedBy, DeviceRef, FastConfig, FastCounters, FastPath, FastPathError, Gpe, Hook, MAX_SLOTS,
    VETH, Wire, Xdp, ethernet_addr, remove_own_left_over, wire,
};

/// How often it is looked at what arrives.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Periods in a row in which what arrives is not what the fast path is for, until it is given up.
const MAX_BAD_PERIODS: u32 = 2;

/// A wire is one of single frames if so many long ones come in a period, and so many times more than
/// superpackets: where superpackets come, a flow ends one with a shorter frame now and then.
const MANY_FRAMES: u64 = 5000;
const FRAMES_TO_SUPERPACKETS: u64 = 10;

/// From that MTU on, the kernel is faster than the workers with single frames of TCP as well: it merges
/// them without copying them.
const JUMBO_MTU: u16 = 8000;

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

/// How single packets become superpackets, or stay some, on their way from the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// A vxlan device removes the outer headers.
    Gpe {
        /// They arrive as single packets, which its GRO merges; else as superpackets.
        merges: bool,
    },
    /// XDP removes the outer headers from what is sent to this link address, and GRO merges it.
    Xdp([u8; 6]),
}

/// Why the fast path is not for an underlay.
#[derive(Debug)]
struct Unfit {
    reason: String,
    /// Whether the operator asked for something else.
    is_fault: bool,
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

/// What has arrived from peers, and for how many periods something was wrong with it.
#[derive(Debug, Default, Clone)]
struct Arrivals {
    counters: FastCounters,
    /// Whether GRO is to make superpackets of single frames.
    gro_merges: bool,
    stuck: u32,
    framed: u32,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Packets go into the vxlan device, and none comes out.
    Stuck,
    /// Bulk flows come in single frames.
    Frames,
    /// XDP leaves them so: it cannot mark what it takes.
    NoMetadata,
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
            self.stop();
            return false;
        };
        let mut means = match self.means(&place) {
            Ok(means) => means,
            Err(unfit) => {
                self.withdraw(&unfit.reason, unfit.is_fault);
                return false;
            }
        };
        let is_whole = match &self.gpe {
            Some(gpe) => gpe.exists(net).await,
            None => true,
        };
        let lost = self.path.lost_hook();
        if let Some(Hook { name, device, .. }) = &lost {
            let device = &device.name;
            warn!(
                "somebody detached the {name} program of the fast path from {device}: attaching it again"
            );
        }
        let is_whole = is_whole && lost.is_none() && self.withdrawn_until.is_none();
        if is_whole && self.place.as_ref() == Some(&(place.clone(), means)) {
            return self.path.config().is_some();
        }
        self.stop();
        let mut started = self.start(net, &place, means).await;
        if let Err(Refused::NoXdp(reason)) = started {
            self.no_xdp = Some((place.underlay.clone(), reason.clone()));
            means = match self.means(&place) {
                Ok(means) => means,
                Err(unfit) => {
                    self.withdraw(&unfit.reason, unfit.is_fault);
                    return false;
                }
            };
            warn!("fast path without XDP: {reason}");
            started = self.start(net, &place, means).await;
        }
        self.place = Some((place.clone(), means));
        match started {
            Ok(()) => {
                let underlay = &place.underlay.name;
                let by = if matches!(means, Means::Gpe { .. }) { "" } else { ", by XDP" };
                info!(
                    %underlay,
                    "fast path is on: the kernel carries TCP, ICMP and sparse UDP to such peers{by}"
                );
                self.set_reason(None, false);
                true
            }
            Err(Refused::All(reason) | Refused::NoXdp(reason)) => {
                self.stop_at(&reason);
                false
            }
        }
    }

    /// Number of the vxlan device.
    pub(super) fn gpe_index(&self) -> Option<u32> {
        self.gpe.as_ref().map(GpeDevice::index)
    }

    /// How what arrives there is taken, or else why the fast path is not worth it.
    fn means(&self, place: &Place) -> Result<Means, Unfit> {
        let of_host = |reason| Unfit { reason, is_fault: false };
        if self.is_given_up {
            return Err(of_host(self.current_reason().unwrap_or_default()));
        }
        if self.path.num_slots() == 0 {
            let SubnetRange { network, subnet_len, .. } = self.overlay.network;
            return Err(of_host(format!(
                "{network} has more subnets of length {subnet_len} than the {MAX_SLOTS} of its \
                 table: it takes a smaller Network or SubnetLen"
            )));
        }
        let name = &place.underlay.name;
        let failed = |error: io::Error| of_host(format!("{name} does not say what it is: {error}"));
        let no_xdp = self.no_xdp.as_ref().filter(|(underlay, _)| *underlay == place.underlay);
        let no_xdp = no_xdp.map(|(_, reason)| reason.clone());
        let wants_xdp = self.choice == FastPathChoice::Xdp && no_xdp.is_none();
        if wants_xdp && let Some(mac) = ethernet_addr(name).map_err(failed)? {
            return Ok(Means::Xdp(mac));
        }
        match wire(name).map_err(failed)? {
            Wire::Superpackets => Ok(Means::Gpe { merges: false }),
            Wire::Frames { driver } if driver == VETH && place.overlay_mtu >= JUMBO_MTU => {
                Ok(Means::Gpe { merges: true })
            }
            Wire::NoEthernet => Err(Unfit {
                reason: format!(
                    "{name} has no Ethernet header: it takes an Ethernet interface, by --iface"
                ),
                is_fault: wants_xdp,
            }),
            Wire::Frames { driver } => Err(match no_xdp {
                Some(reason) => Unfit { reason, is_fault: true },
                None => {
                    let driver = if driver.is_empty() { "no driver" } else { driver.as_str() };
                    of_host(format!(
                        "{name} ({driver}) carries single frames: the workers are faster there"
                    ))
                }
            }),
        }
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
        self.arrivals = Arrivals {
            counters: self.path.counters(),
            gro_merges: means != Means::Gpe { merges: false },
            ..Arrivals::default()
        };
        // The verifier takes a tenth of a second, in which leases are to be followed.
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
            gpe,
            xdp,
            attach_by: AttachedBy::best(),
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

impl Trouble {
    /// The same in words, for a device that has it.
    fn reason(self, config: &FastConfig) -> Option<String> {
        let name = &config.underlay.name;
        match self {
            Self::Stuck => config.gpe.as_ref().map(|gpe| {
                format!(
                    "packets from peers do not reach {}: let UDP port {} in from the peers, and \
                     restart flanneld",
                    gpe.device.name, gpe.port
                )
            }),
            Self::Frames => Some(match merging_device(config) {
                Some(name) => format!(
                    "packets from peers stay single frames on {name}: turn on its generic receive \
                     offload (`ethtool -K {name} gro on`) and restart flanneld",
                ),
                None => format!(
                    "peers' packets reach {name} in single frames: the workers are faster there",
                ),
            }),
            Self::NoMetadata => Some(format!(
                "{name}'s driver has no room for what XDP says to tc: leave out --fast-path=xdp"
            )),
        }
    }
}

/// The device whose GRO is to make superpackets.
fn merging_device(config: &FastConfig) -> Option<&str> {
    let gpe = config.gpe.as_ref().filter(|gpe| gpe.merges).map(|gpe| &gpe.device);
    gpe.or(config.xdp.as_ref().map(|_| &config.underlay)).map(|device| device.name.as_str())
}

impl Arrivals {
    /// Takes over what was counted in one more period; what has been wrong for some of them.
    fn trouble(&mut self, now: FastCounters) -> Option<Trouble> {
        let before = std::mem::replace(&mut self.counters, now);
        let num_in = self.counters.gpe_in - before.gpe_in;
        let num_out = self.counters.gpe_out - before.gpe_out;
        let num_merged = self.counters.merged - before.merged;
        let num_frames = self.counters.frames - before.frames;
        let is_stuck = num_in > 0 && num_out == 0;
        let num_superpackets = if self.gro_merges { num_merged } else { num_in };
        let is_framed = num_frames >= MANY_FRAMES.max(FRAMES_TO_SUPERPACKETS * num_superpackets);
        self.stuck = if is_stuck { self.stuck + 1 } else { 0 };
        self.framed = if is_framed { self.framed + 1 } else { 0 };
        if self.stuck >= MAX_BAD_PERIODS {
            return Some(Trouble::Stuck);
        }
        let num_unmarked =
            |counters: &FastCounters| counters.xdp.passed.get("no_metadata").copied();
        let is_marked = num_unmarked(&self.counters) == num_unmarked(&before);
        let trouble = if is_marked { Trouble::Frames } else { Trouble::NoMetadata };
        (self.framed >= MAX_BAD_PERIODS).then_some(trouble)
    }
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

    #[test]
    fn xdp_that_gro_does_not_follow_is_noticed_and_why() {
        let after = |merged, no_metadata| {
            let mut arrivals = Arrivals { gro_merges: true, ..Arrivals::default() };
            let counters = |period: u64| {
                let (frames, merged) = (9000 * period, merged * period);
                let mut counters = FastCounters { frames, merged, ..FastCounters::default() };
                counters.xdp.passed.insert("no_metadata", no_metadata * period);
                arrivals.trouble(counters)
            };
            [1, 2].map(counters)[1]
        };
        assert_eq!(after(0, 0), Some(Trouble::Frames));
        assert_eq!(after(0, 9000), Some(Trouble::NoMetadata));
        assert_eq!(after(1000, 0), None);
    }

    #[test]
    fn device_without_ethernet_header_has_no_fast_path() {
        let network = "10.1.0.0/16".parse().unwrap();
        let path = Arc::new(FastPath::new(network, 24));
        let range = SubnetRange {
            network,
            subnet_len: 24,
            subnet_min: network.network(),
            subnet_max: network.broadcast(),
        };
        let overlay = Overlay { network: range, own: "10.1.15.0/24".parse().unwrap(), port: 8285 };
        let device = |name: &str| DeviceRef { index: 1, name: name.to_owned() };
        let place = Place {
            overlay: device("flannel0"),
            overlay_mtu: 1472,
            underlay: device("lo"),
            underlay_addr: Ipv4Addr::LOCALHOST,
            source_ports: [0; 8],
        };
        for choice in [FastPathChoice::Auto, FastPathChoice::Xdp] {
            let short_cut = ShortCut::new(choice, overlay.clone(), Arc::clone(&path));
            let unfit = short_cut.means(&place).unwrap_err();
            assert!(unfit.reason.starts_with("lo has no Ethernet header"), "{}", unfit.reason);
            assert_eq!(
                unfit.is_fault,
                choice == FastPathChoice::Xdp,
                "a warning if it was asked for"
            );
        }
    }
}
