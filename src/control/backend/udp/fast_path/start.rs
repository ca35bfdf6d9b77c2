//! How the programs are started.

use std::sync::Arc;

use rand::Rng;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::arrivals::Arrivals;
use super::gpe::GpeDevice;
use super::means::{Means, single_frames};
use super::refusal::advice;
use super::{Overlay, Place, ShortCut, why_lacking, xdp};
use crate::control::config::network::SubnetRange;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::util::error_chain::error_chain;
use crate::control::util::rng::rng;
use crate::dataplane::fast_path::{AttachedBy, FastConfig, FastPathError, Xdp};

/// What the kernel does not do, and why.
#[derive(Debug)]
enum Refused {
    All(String),
    /// A device went, or does not take a program: it may next time.
    Attach(String),
    NoXdp(String),
    /// There is no device that takes superpackets apart.
    NoGpe(String),
}

impl ShortCut {
    /// Stops what runs, and starts it at `place`.
    pub(super) async fn start_again(&mut self, net: &Netlink, place: Place, mut means: Means) {
        self.stop().await;
        let mut is_final = true;
        let started = loop {
            let (lacking, what, reason) = match self.start(net, &place, means).await {
                Ok(()) => break Ok(()),
                Err(Refused::All(reason)) => break Err(reason),
                Err(Refused::Attach(reason)) => {
                    is_final = false;
                    break Err(reason);
                }
                Err(Refused::NoXdp(reason)) => (&mut self.no_xdp, "XDP", reason),
                Err(Refused::NoGpe(reason)) => (&mut self.no_bulk_tcp, "bulk TCP", reason),
            };
            *lacking = Some((place.underlay.clone(), reason.clone()));
            means = match self.means(&place) {
                Ok(means) => means,
                Err(unfit) => return self.leave(&unfit).await,
            };
            warn!("fast path without {what}: {reason}");
        };
        let underlay = place.underlay.clone();
        // Without a place it is tried again soon, else when the place is another.
        self.place = is_final.then_some((place, means));
        if let Err(reason) = started {
            self.detach().await;
            self.said.off(&reason, true);
            return;
        }
        // Logged already if it is known.
        let known = why_lacking(&self.no_bulk_tcp, &underlay);
        let (what, more) = match means {
            Means::Gpe { .. } => ("TCP, ICMP", String::new()),
            Means::Xdp(_) => ("TCP, ICMP", ", by XDP".to_owned()),
            Means::Sparse if known.is_some() => {
                ("ICMP, sparse TCP", "; workers bulk TCP".to_owned())
            }
            Means::Sparse => {
                let more = format!("; workers bulk TCP: {}", single_frames(&underlay));
                ("ICMP, sparse TCP", more)
            }
        };
        info!(
            underlay = underlay.name,
            "fast path is on: the kernel carries {what} and sparse UDP to such peers{more}"
        );
        let no_bulk_tcp = known.unwrap_or_else(|| single_frames(&underlay));
        let no_bulk_tcp = (means == Means::Sparse).then_some(no_bulk_tcp);
        self.said.on(no_bulk_tcp, why_lacking(&self.no_xdp, &underlay));
    }

    async fn start(&mut self, net: &Netlink, place: &Place, means: Means) -> Result<(), Refused> {
        let vni = rng().random_range(1..1 << 24);
        let mut xdp = None;
        let gpe = match means {
            Means::Gpe { merges } => {
                let gpe = GpeDevice::make(net, &place.overlay.name, self.overlay.port).await;
                let gpe = gpe.map_err(|error: KernelError| {
                    let missing = error.source.raw_os_error() == Some(libc::EOPNOTSUPP);
                    let help = if missing {
                        "; load the kernel's module vxlan and restart flanneld"
                    } else {
                        ""
                    };
                    let error = error_chain(&error);
                    Refused::NoGpe(format!(
                        "no vxlan device to take superpackets apart: {error}{help}"
                    ))
                })?;
                Some((gpe, merges))
            }
            Means::Xdp(mac) => {
                xdp = Some(Xdp { mac, mark: rng().random_range(1..=u32::MAX) });
                None
            }
            Means::Sparse => None,
        };
        let gpe_config = gpe.as_ref().map(|(gpe, merges)| gpe.as_config(vni, *merges));
        let config = FastConfig {
            gpe: gpe_config,
            xdp,
            bulk_tcp: means != Means::Sparse,
            ..self.config(place)
        };
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
            Ok(Err(error @ FastPathError::Attach { .. })) => Err(Refused::Attach(advice(&error))),
            Ok(Err(error)) => Err(Refused::All(advice(&error))),
            Err(error) => Err(Refused::All(format!("load the BPF programs: {error}"))),
        }
    }

    /// For ICMP and sparse flows at `place`.
    fn config(&self, place: &Place) -> FastConfig {
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
            gpe: None,
            xdp: None,
            bulk_tcp: false,
            attach_by: AttachedBy::best(),
        }
    }
}
