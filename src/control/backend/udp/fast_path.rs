//! [`ShortCut`]: when the fast path runs, and what our lease says that we take of what peers' kernels
//! send. See docs/adr/0026-fast-path.md.

mod arrivals;
mod end;
mod gpe;
mod means;
mod refusal;
mod said;
mod start;
mod stats;
mod xdp;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;
use tokio::time::Instant;
use tracing::{info, warn};

use self::arrivals::Arrivals;
use self::gpe::GpeDevice;
pub(super) use self::means::JUMBO_MTU;
use self::means::Means;
use self::refusal::advice;
pub(super) use self::said::Said;
pub use self::stats::{FastPathStats, HookStats};
use crate::control::config::daemon::FastPathChoice;
use crate::control::config::network::SubnetRange;
use crate::control::host::net::Netlink;
use crate::dataplane::fast_path::{
    AttachedBy, DeviceRef, FastConfig, FastPath, Hook, remove_own_left_over,
};
use crate::routes::KernelReceive;

/// Why it is off for a moment.
const OTHER_WIRE: &str = "the underlay is another kind of wire now, for which it begins again";

/// Where the programs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) overlay: DeviceRef,
    /// The longest packets that the workers take, in bytes.
    pub(super) overlay_mtu: u16,
    /// Whether both devices take long ones now.
    pub(super) is_jumbo: bool,
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

/// An underlay that does not do something, and why.
type Lacking = Option<(DeviceRef, String)>;

/// Why it is lacking on this `underlay`, if it is.
fn why_lacking(lacking: &Lacking, underlay: &DeviceRef) -> Option<String> {
    lacking.as_ref().filter(|(of, _)| of == underlay).map(|(_, reason)| reason.clone())
}

/// Starts and stops the fast path.
#[derive(Debug)]
pub(super) struct ShortCut {
    choice: FastPathChoice,
    overlay: Overlay,
    path: Arc<FastPath>,
    said: Arc<Said>,
    /// What the programs were last started for, also if that failed.
    place: Option<(Place, Means)>,
    /// The underlay that does not take XDP.
    no_xdp: Lacking,
    /// The underlay on which the workers have to carry TCP in bulk, although it looks as if kernels could.
    no_bulk_tcp: Lacking,
    gpe: Option<GpeDevice>,
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
        let said = Said::default();
        if choice == FastPathChoice::Off {
            said.turned_off("turned off by flag");
        }
        Self {
            choice,
            overlay,
            path,
            said: Arc::new(said),
            place: None,
            no_xdp: None,
            no_bulk_tcp: None,
            gpe: None,
            is_swept: false,
            withdrawn_until: None,
            arrivals: Arrivals::default(),
            next_check: Instant::now(),
        }
    }

    /// What there is to say of it, now and later.
    pub(super) fn said(&self) -> Arc<Said> {
        Arc::clone(&self.said)
    }

    /// Sees to it that the programs run at `place` if they may, and nowhere else. Returns what our lease
    /// may say that our kernel takes.
    pub(super) async fn reconcile(&mut self, net: &Netlink, place: Option<Place>) -> KernelReceive {
        if let Some(place) = &place
            && !std::mem::replace(&mut self.is_swept, true)
            && remove_own_left_over(&place.underlay.name, self.overlay.port)
        {
            info!("a filter that a killed flanneld left on {} is removed", place.underlay.name);
        }
        if self.choice == FastPathChoice::Off {
            return KernelReceive::Nothing;
        }
        let Some(place) = place else {
            self.stop().await;
            return KernelReceive::Nothing;
        };
        match self.means(&place) {
            // What was begun there is finished: peers may not know yet.
            Ok(_) if self.is_withdrawing(&place) => {}
            Ok(means) if self.is_whole(net, &place, means).await => {}
            // Peers' kernels must stop sending before ours stops taking it, if for a moment.
            Ok(means)
                if self.runs_by_others(&place, means) && !self.withdraw(OTHER_WIRE, false) => {}
            Ok(means) => self.start_again(net, place, means).await,
            Err(unfit) => self.leave(&unfit).await,
        }
        self.takes()
    }

    /// Whether peers are yet to learn that our kernel is about to take nothing at `place`.
    fn is_withdrawing(&self, place: &Place) -> bool {
        let is_here = self.place.as_ref().is_some_and(|(at, _)| at == place);
        is_here && self.withdrawn_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether programs run at `place` by other means.
    fn runs_by_others(&self, place: &Place, means: Means) -> bool {
        let is_other = matches!(&self.place, Some((at, others)) if at == place && *others != means);
        is_other && self.path.config().is_some()
    }

    fn takes(&self) -> KernelReceive {
        match self.path.config().filter(|_| self.withdrawn_until.is_none()) {
            None => KernelReceive::Nothing,
            Some(FastConfig { bulk_tcp: false, .. }) => KernelReceive::Sparse,
            Some(_) => KernelReceive::All,
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

    /// Number of the vxlan device.
    pub(super) fn gpe_index(&self) -> Option<u32> {
        self.gpe.as_ref().map(GpeDevice::index)
    }
}
