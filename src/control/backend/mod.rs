//! Backends: what carries packets between this node and its peers.
//!
//! A backend is a directory of its own below this one, and goes through three types:
//!
//! ```text
//! create(setup) ─► Driver ──prepare──► Prepared ──start──► Backend
//!                  has changed         holds ports or a     runs until
//!                  nothing yet         device; now the      it is dropped
//!                                      lease is written
//! ```
//!
//! To add a backend:
//!
//! 1. `config/backend.rs`: a variant of `BackendConfig` with the plain settings, its name, and how
//!    `Backend` of the network config is read into them.
//! 2. `backend/NAME/`: a type that implements [`Driver`]: `plan` for `--config-check`, and
//!    `prepare`, which returns what the lease must say (`BackendType`, `BackendData`).
//! 3. [`Prepared::start`] makes the device, if there is one, and returns a [`Backend`].
//!    - If the kernel forwards the packets, implement [`peer_routes::PeerHost`] (what one lease
//!      asks for, and how the device is repaired) and return a
//!      [`KernelForwarding`](peer_routes::KernelForwarding), which is the whole [`Backend`]:
//!      `host_gw.rs` is the shortest example.
//!    - If the network of a cloud forwards the packets, implement `cloud_route::Cloud` (how one
//!      route is kept): `gce/` is the example.
//!    - If packets pass through this process, implement [`Backend`]: `udp/` is the example.
//! 4. [`create`]: one line. Nothing else in the program knows the backends by name; one backend
//!    never imports another, which `tests/boundaries.rs` checks.
//! 5. The lab's `src/lab/network/backend.rs`, so that `flannel-lab` and the network tests have it;
//!    the README's list of backends.

#[cfg(feature = "aws")]
mod aws_vpc;
mod cloud_route;
pub mod capture;
mod error;
mod gce;
mod host_gw;
mod mtu;
pub mod peer_routes;
mod reconciler_task;
mod udp;
mod vxlan;

use std::net::Ipv4Addr;

use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use tokio::sync::watch;

#[cfg(feature = "aws")]
use self::aws_vpc::AwsVpc;
use self::capture::{CaptureError, CaptureRequest};
use self::cloud_route::CloudDriver;
pub use self::error::BackendError;
use self::gce::Gce;
use self::host_gw::HostGwDriver;
use self::udp::UdpDriver;
pub use self::udp::{FastPathStats, HookStats, UdpOptions};
use self::vxlan::VxlanDriver;
use super::conditions::Conditions;
use super::config::backend::{BackendConfig, BackendType};
use super::config::network::NetworkConfig;
use super::host::iface::{ExternalInterface, IfaceChoice};
use super::host::preflight;
use super::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::dataplane::capture::Capture;
use crate::dataplane::stats::StatsSnapshot;
use crate::dataplane::stats::peers::PeerCount;

/// What a backend is made from.
#[derive(Debug, Clone)]
pub struct BackendSetup {
    /// The interface of the underlay.
    pub iface: ExternalInterface,
    /// How it was chosen, to choose again when its address is removed.
    pub choice: IfaceChoice,
    /// The overlay, with the settings of its backend.
    pub network: NetworkConfig,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    pub mtu: Option<u16>,
    /// Flags of the udp backend.
    pub udp: UdpOptions,
}

/// The backend that the network config names. The only place that knows all of them.
pub fn create(setup: BackendSetup) -> Box<dyn Driver> {
    match setup.network.backend {
        BackendConfig::Udp(config) => Box::new(UdpDriver::new(setup, config)),
        BackendConfig::Vxlan(config) => Box::new(VxlanDriver::new(setup, config)),
        BackendConfig::HostGw => Box::new(HostGwDriver::new(setup)),
        #[cfg(feature = "aws")]
        BackendConfig::AwsVpc(ref config) => {
            let cloud = AwsVpc::from_env(config.clone());
            Box::new(CloudDriver::new(setup, cloud))
        }
        BackendConfig::Gce => Box::new(CloudDriver::new(setup, Gce::from_env())),
    }
}

/// Checks early what the backend of the flag needs of the host. Without the flag the network config,
/// which may come much later, names the backend: a missing TUN device is only a warning then.
///
/// # Errors
/// [`BackendError::Preflight`].
pub fn preflight(named: Option<BackendType>) -> Result<(), BackendError> {
    match (named, preflight::check_tun()) {
        (Some(BackendType::Udp), checked) => Ok(checked?),
        (None, Err(error)) => {
            tracing::warn!("{error}; the udp backend needs it");
            Ok(())
        }
        #[cfg(feature = "aws")]
        (Some(BackendType::AwsVpc), _) => Ok(()),
        (Some(BackendType::Vxlan | BackendType::HostGw | BackendType::Gce) | None, _) => Ok(()),
    }
}

/// A backend that is being prepared, with what its lease is to say.
pub type Preparing<'a> = LocalBoxFuture<'a, Result<(Box<dyn Prepared>, LeaseAttrs), BackendError>>;

/// A backend that is being started.
pub type Starting<'a> = LocalBoxFuture<'a, Result<Box<dyn Backend>, BackendError>>;

/// A configured backend. It has not touched the host yet.
pub trait Driver {
    /// The address that our lease has.
    fn public_ip(&self) -> Ipv4Addr;

    /// What it would do on this host, without changing anything.
    fn plan(&self) -> Plan;

    /// Takes what another process may hold, such as the port, and returns it with what our lease
    /// is to say of us. This happens before our lease is written, so that a daemon that cannot run
    /// here changes nothing in the registry. `previous` is what our lease said before, if that is
    /// known.
    ///
    /// # Errors
    /// [`BackendError`].
    fn prepare<'a>(self: Box<Self>, previous: Option<&'a LeaseAttrs>) -> Preparing<'a>;
}

/// A backend that holds what it needs to start.
pub trait Prepared {
    /// Makes the overlay device of `lease` and starts to carry packets; there are no peers yet.
    ///
    /// # Errors
    /// [`BackendError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves no more on the host than dropping the backend does.
    fn start<'a>(self: Box<Self>, lease: &'a Lease) -> Starting<'a>;
}

/// Carries packets between this node and its peers, for as long as the value lives. If the
/// kernel forwards, device and entries outlive it, so that packets keep flowing.
pub trait Backend {
    /// MTU of the overlay, in bytes.
    fn mtu(&self) -> u16;

    /// Applies changes of the peers' leases, in order.
    fn apply(&mut self, events: Vec<LeaseEvent>);

    /// Called once the registry has listed every lease and [`apply`](Self::apply) has applied them:
    /// entries that an earlier run left for other peers may be removed.
    fn synced(&mut self) {}

    /// Called when the operator asks to check what is outside of this host, and can be changed
    /// there without a notification.
    fn check(&mut self) {}

    /// Waits until the backend fails for good; for ever if it does not.
    ///
    /// # Cancel safety
    /// Dropping the future loses no failure.
    fn failed(&mut self) -> LocalBoxFuture<'_, BackendError>;

    /// The state of each thing that it needs of this host.
    fn conditions(&self) -> Conditions;

    /// What our lease is to say of us, now and whenever that changes; `None` if it never does.
    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        None
    }

    /// Counters of packets to the peers, and from them; several entries of one peer add up.
    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        // If the kernel forwards, no packet passes through this process.
        (Vec::new(), Vec::new())
    }

    /// Name of the overlay device.
    fn device(&self) -> String;

    /// How many peers there is a route to.
    fn num_peers(&self) -> usize;

    /// Starts a capture of inner packets.
    ///
    /// # Errors
    /// [`CaptureError`].
    fn capture(&self, _request: &CaptureRequest) -> Result<Capture, CaptureError> {
        Err(CaptureError::KernelForwards { device: self.device() })
    }

    /// A warning about peers that packets do not reach, if it knows of such peers.
    fn peers_warning(&self) -> Option<String> {
        None
    }

    /// Reads what it counted.
    fn stats(&self) -> BackendStats {
        BackendStats {
            device: self.device(),
            num_peers: self.num_peers(),
            dataplane: None,
            peers: Vec::new(),
            fast_path: None,
        }
    }
}

/// What a backend would do, for `--config-check`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The overlay device: name, MTU, what is routed into it.
    pub device: Option<String>,
    /// Where outer packets are received, if a port is needed.
    pub listen: Option<String>,
    /// Why it would not start: one line each.
    pub problems: Vec<String>,
}

/// What a backend counted; part of the JSON that `/stats` serves.
#[derive(Debug, Serialize)]
pub struct BackendStats {
    /// Name of the overlay device.
    pub device: String,
    /// Peers there is a route to.
    pub num_peers: usize,
    /// The data plane's counters, if packets pass through this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<StatsSnapshot>,
    /// The fast path, if the backend has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_path: Option<FastPathStats>,
    /// The peers by public IP; none if the kernel forwards, because then nobody knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerHealth>,
}

/// How a peer is, as far as its packets show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerHealth {
    /// Its public IP.
    pub public_ip: Ipv4Addr,
    /// Seconds since a packet came from it; `None` if none has.
    pub last_heard_seconds: Option<u64>,
    /// The longest packet that fits its path, as far as it is known, in bytes.
    pub path_mtu: u16,
    /// Why packets do not arrive, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::daemon::{FastPathChoice, SourcePorts};
    use crate::control::config::network::parse;
    use crate::dataplane::{Offloads, ThreadConfig};

    fn plan(backend: &str, mtu: u32, public_ip: &str) -> Plan {
        let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
        let public_ip = public_ip.parse().unwrap();
        let addr = "127.0.0.1".parse().unwrap();
        let udp = UdpOptions {
            num_workers: 2,
            offloads: Offloads::OFF,
            source_ports: SourcePorts::Auto,
            fast_path: FastPathChoice::Auto,
            host: None,
            threads: ThreadConfig::default(),
        };
        create(BackendSetup {
            iface: ExternalInterface { name: "eth0".to_owned(), mtu, addr, public_ip },
            choice: IfaceChoice::default(),
            network: parse(&config, None).unwrap(),
            mtu: None,
            udp,
        })
        .plan()
    }

    #[test]
    fn each_backend_says_what_it_would_make() {
        let udp = plan(r#"{"Type":"udp","Port":18285}"#, 1500, "127.0.0.1");
        let device = "the first free flannelN, MTU 1472, with 10.5.0.0/16 routed";
        assert_eq!(udp.device.as_deref(), Some(device));
        assert_eq!(udp.listen.as_deref(), Some("UDP 127.0.0.1:18285, by 2 workers"));

        let vxlan = plan(r#"{"Type":"vxlan","VNI":7,"Port":4789}"#, 1500, "192.0.2.1");
        assert_eq!(vxlan.device.as_deref(), Some("flannel.7, MTU 1450"));
        assert_eq!(vxlan.listen.as_deref(), Some("UDP 4789, by the kernel"));
        assert_eq!(vxlan.problems, [""; 0], "a NAT is no problem for a tunnel");

        let host_gw = plan(r#"{"Type":"host-gw"}"#, 9000, "127.0.0.1");
        assert_eq!(host_gw.device.as_deref(), Some("none: routes by eth0, MTU 9000"));
        assert_eq!((host_gw.listen, host_gw.problems), (None, Vec::new()));
    }

    #[test]
    fn problems_are_one_line_each_and_say_what_to_do() {
        let behind_nat = plan(r#"{"Type":"host-gw"}"#, 1500, "192.0.2.1").problems;
        assert_eq!(behind_nat.len(), 1);
        assert!(behind_nat[0].contains("set Backend.Type to vxlan or udp"), "{behind_nat:?}");
        let small = plan(r#"{"Type":"vxlan"}"#, 100, "127.0.0.1");
        let line = "interface eth0 has MTU 100, too small for an overlay: 118 is the least";
        assert_eq!((small.device, small.problems), (None, vec![line.to_owned()]));
    }
}
