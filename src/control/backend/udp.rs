//! The udp backend: a TUN device, sockets on the external interface, and workers between them.
//!
//! Parity is with flannel's `pkg/backend/udp`: the same device and addresses, the same datagrams.
//! Every lease under the prefix is a peer at its public IP and *our* port, whatever the lease says
//! of its backend.

mod device;
mod engine_handle;
mod fast_path;
mod heard;
mod peer_routes;
mod peers;
mod reconciler;
mod repair_limit;
mod shadows;
mod source_ports;
mod underlay;
mod ways;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use self::device::DeviceSpec;
use self::engine_handle::EngineHandle;
pub use self::fast_path::{FastPathStats, HookStats};
use self::fast_path::{Overlay, Said, ShortCut};
use self::peer_routes::{KernelRouteLookup, PeerRoutes};
use self::peers::Peers;
use self::reconciler::{Advertised, DeviceReconciler};
use self::shadows::{PeerSubnets, Shadows};
use self::underlay::Underlay;
use self::underlay::first_tun_mtu;
use super::capture::{CaptureError, CaptureRequest};
use super::{
    Backend, BackendError, BackendSetup, BackendStats, Driver, Plan, Prepared, Preparing, Starting,
};
use crate::control::conditions::Conditions;
use crate::control::config::backend::UdpConfig;
use crate::control::config::daemon::{FastPathChoice, SourcePorts};
use crate::control::config::network::NetworkConfig;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::host::preflight;
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::util::error_chain::error_chain;
use crate::dataplane::capture::Capture;
use crate::dataplane::engine::Counters;
use crate::dataplane::fast_path::FastPath;
use crate::dataplane::io::tun::TunConfig;
use crate::dataplane::io::udp::{KernelUdp, LongDatagrams, Steering};
use crate::dataplane::stats::peers::PeerCount;
use crate::dataplane::{EngineConfig, Offloads, ThreadConfig};
use crate::routes::publish;

/// Queues of a TUN device: `MAX_TAP_QUEUES` in drivers/net/tun.c.
const MAX_QUEUES: usize = 256;

/// Flags that only the udp backend reads.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// Workers of each traffic class, or of all traffic; each has a TUN queue and a socket.
    pub num_workers: usize,
    /// Offloads that may be used.
    pub offloads: Offloads,
    /// Whether flows may have outer source ports of their own.
    pub source_ports: SourcePorts,
    /// Whether the kernel may carry packets without the workers.
    pub fast_path: FastPathChoice,
    /// Which host this is, for leases that may say more than stock's.
    pub host: Option<HostId>,
    /// How the workers share the cores.
    pub threads: ThreadConfig,
}

impl UdpOptions {
    /// How datagrams find their worker. Classes come with the source ports that tell them apart; the
    /// operator who wants packets moved as by stock gets one kind of worker.
    fn steering(&self) -> Steering {
        match self.source_ports {
            SourcePorts::Auto
                if self.offloads != Offloads::OFF && 2 * self.num_workers <= MAX_QUEUES =>
            {
                Steering::ByClass
            }
            SourcePorts::Auto | SourcePorts::Shared => Steering::Together,
        }
    }

    /// All workers.
    fn num_queues(&self) -> usize {
        match self.steering() {
            Steering::ByClass => 2 * self.num_workers,
            Steering::Together => self.num_workers,
        }
    }
}

/// The udp backend, configured.
#[derive(Debug)]
pub(super) struct UdpDriver {
    iface: ExternalInterface,
    choice: IfaceChoice,
    network: NetworkConfig,
    /// Where we and all peers listen.
    port: u16,
    /// MTU of the overlay in bytes, if the operator chose one.
    mtu: Option<u16>,
    options: UdpOptions,
}

/// The sockets of a udp backend that has no lease yet.
#[derive(Debug)]
pub(super) struct UdpPrepared {
    driver: UdpDriver,
    mtu: u16,
    long_datagrams: LongDatagrams,
    sockets: Vec<KernelUdp>,
}

/// The engine udp backend.
#[derive(Debug)]
pub(super) struct UdpBackend {
    mtu: u16,
    engine: Arc<EngineHandle>,
    conditions: watch::Receiver<Conditions>,
    attrs: watch::Receiver<LeaseAttrs>,
    /// The reconciler, and the netlink socket that it reads.
    tasks: JoinSet<BackendError>,
    routes: PeerRoutes,
    peer_subnets: Arc<PeerSubnets>,
    /// What there is to say of the fast path.
    said_of_fast_path: Arc<Said>,
    /// What looks at other routes.
    _watch: JoinSet<()>,
}

impl UdpDriver {
    /// The backend with these settings. An MTU chosen by flag wins over the config's.
    pub(super) fn new(setup: BackendSetup, config: UdpConfig) -> Self {
        let BackendSetup { iface, choice, network, mtu, udp: options } = setup;
        Self { iface, choice, network, port: config.port, mtu: mtu.or(config.mtu), options }
    }

    /// What the sockets are bound to.
    const fn bind_addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.iface.addr, self.port)
    }
}

impl Driver for UdpDriver {
    fn public_ip(&self) -> Ipv4Addr {
        self.iface.public_ip
    }

    fn plan(&self) -> Plan {
        let (range, bind_addr) = (self.network.v4.network, self.bind_addr());
        let mut problems = Vec::new();
        let mut note = |error: &dyn Error| problems.push(error_chain(error));
        let _ = preflight::check_tun().map_err(|error| note(&error));
        let mtu = first_tun_mtu(&self.iface, self.mtu).map_err(|error| note(&error));
        let device = mtu
            .ok()
            .map(|(mtu, _)| format!("the first free flannelN, MTU {mtu}, with {range} routed"));
        // The socket is closed again at once.
        let refused = LongDatagrams::Refused;
        let bound = device::bind(bind_addr, 1, Steering::Together, Offloads::OFF, refused);
        let _ = bound.map_err(|error| note(&error));
        let listen = format!("UDP {bind_addr}, by {} workers", self.options.num_queues());
        Plan { device, listen: Some(listen), problems }
    }

    fn prepare<'a>(self: Box<Self>, _previous: Option<&'a LeaseAttrs>) -> Preparing<'a> {
        Box::pin(async move {
            preflight::check_tun()?;
            let (mtu, long_datagrams) = first_tun_mtu(&self.iface, self.mtu)?;
            let UdpOptions { offloads, source_ports, ref host, .. } = self.options;
            let attrs = source_ports::attrs(&self.iface, source_ports, host.as_ref());
            let (num, steering) = (self.options.num_queues(), self.options.steering());
            let sockets = device::bind(self.bind_addr(), num, steering, offloads, long_datagrams)?;
            let prepared = UdpPrepared { driver: *self, mtu, long_datagrams, sockets };
            Ok((Box::new(prepared) as Box<dyn Prepared>, attrs))
        })
    }
}

impl Prepared for UdpPrepared {
    fn start<'a>(self: Box<Self>, lease: &'a Lease) -> Starting<'a> {
        Box::pin(async move {
            let backend = UdpBackend::start(*self, lease).await?;
            Ok(Box::new(backend) as Box<dyn Backend>)
        })
    }
}

impl UdpBackend {
    async fn start(prepared: UdpPrepared, lease: &Lease) -> Result<Self, BackendError> {
        let UdpPrepared { driver, mtu, long_datagrams, sockets } = prepared;
        let (bind_addr, is_chosen) = (driver.bind_addr(), driver.mtu.is_some());
        let UdpDriver { iface, choice, network, port, options, .. } = driver;
        let (num_queues, steering) = (options.num_queues(), options.steering());
        let UdpOptions { offloads, source_ports, fast_path, host, threads, .. } = options;
        let spreads_flows = source_ports::spreads_flows(&iface, source_ports);
        let longest_whole = underlay::room(iface.mtu);
        // Before anything is made: no change is missed.
        let (connection, net, changes) = net::watch().map_err(BackendError::Kernel)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            connection.await;
            BackendError::NetlinkLost
        });
        let (publisher, routes) = publish::channel(network.v4.network, network.v4.subnet_len);
        let (subnet, tun_addr) = (lease.subnet, lease.subnet.network());
        let spec = DeviceSpec {
            tun: TunConfig { name: String::new(), num_queues, offloads },
            network: network.v4.network,
            bind_addr,
            steering,
            engine: EngineConfig {
                subnet,
                tun_addr,
                tun_mtu: mtu,
                longest_whole,
                long_datagrams,
                threads,
            },
            routes,
            counters: Counters::new(num_queues),
        };
        let device = spec.make(&net, mtu, None, sockets).await?;
        info!(device = %device.name, mtu, workers = num_queues, "overlay device is up");

        let own = [iface.addr, iface.public_ip];
        let counters = spec.counters.clone();
        let src_net = net.clone();
        let attrs = source_ports::attrs(&iface, source_ports, host.as_ref());
        let attrs = watch::Sender::new(attrs);
        let advertised = Advertised { source_ports, host, attrs };
        let underlay = Underlay::new(iface, choice, mtu, is_chosen);
        let path = Arc::new(FastPath::new(network.v4.network, network.v4.subnet_len));
        let overlay = Overlay { network: network.v4, own: subnet, port };
        let short_cut = ShortCut::new(fast_path, overlay, Arc::clone(&path));
        let said_of_fast_path = short_cut.said();
        let (kernel, short_cut) = ((net, changes), (short_cut, Arc::clone(&path)));
        let reconciler =
            DeviceReconciler::new(kernel, spec, underlay, advertised, short_cut, device);
        let (engine, conditions, attrs) =
            (reconciler.engine(), reconciler.conditions(), reconciler.attrs());
        let peer_subnets = Arc::new(PeerSubnets::default());
        let shadows = Shadows {
            network: network.v4.network,
            own: subnet,
            peers: Arc::clone(&peer_subnets),
            engine: Arc::clone(&engine),
            state: reconciler.conditions_sender(),
        };
        tasks.spawn(reconciler.run());
        let mut watch = JoinSet::new();
        watch.spawn(shadows.keep());
        let peers = Peers::new(port, spreads_flows, own);
        let lookup = KernelRouteLookup { net: src_net, engine: Arc::clone(&engine) };
        let routes = PeerRoutes::new(peers, publisher, counters, network.v4.network, lookup);
        Ok(Self {
            mtu,
            engine,
            conditions,
            attrs,
            tasks,
            routes: routes.with_fast_path(path),
            peer_subnets,
            said_of_fast_path,
            _watch: watch,
        })
    }
}

impl Backend for UdpBackend {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        self.peer_subnets.apply(&events);
        self.routes.set_own(self.engine.own());
        self.routes.apply(&events);
    }

    fn failed(&mut self) -> LocalBoxFuture<'_, BackendError> {
        Box::pin(async {
            tokio::select! {
                ended = first_end(&mut self.tasks) => ended,
                never = self.routes.follow() => match never {},
            }
        })
    }

    fn conditions(&self) -> Conditions {
        self.conditions.borrow().clone()
    }

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.attrs.clone())
    }

    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        let counters = self.engine.counters();
        let (mut to_peers, mut from_peers) = self.engine.fast_path().peer_counts();
        to_peers.extend(counters.to_peers());
        from_peers.extend(counters.from_peers());
        (to_peers, from_peers)
    }

    fn device(&self) -> String {
        self.engine.name()
    }

    fn num_peers(&self) -> usize {
        self.routes.num_routes()
    }

    fn capture(&self, request: &CaptureRequest) -> Result<Capture, CaptureError> {
        let filter = self.routes.capture_filter(request)?;
        let capture = self.engine.counters().captures().start(filter)?;
        if let Some(offer) = capture.of_kernel() {
            let tapped = self.engine.fast_path().tap(offer);
            tapped.map_err(|source| CaptureError::NoPacketSocket { source })?;
        }
        Ok(capture)
    }

    fn peers_warning(&self) -> Option<String> {
        self.routes.warning()
    }

    fn stats(&self) -> BackendStats {
        let fast_path = FastPathStats::of(self.engine.fast_path(), &self.said_of_fast_path);
        let dataplane = self.engine.counters().snapshot();
        let peers = self.routes.health(&dataplane.narrow_paths, self.mtu);
        BackendStats {
            device: self.device(),
            num_peers: self.num_peers(),
            dataplane: Some(dataplane),
            fast_path: Some(fast_path),
            peers,
        }
    }
}

/// Why the first of `tasks` ended, none of which is meant to.
async fn first_end(tasks: &mut JoinSet<BackendError>) -> BackendError {
    match tasks.join_next().await {
        Some(Ok(error)) => error,
        Some(Err(error)) if error.is_panic() => BackendError::Panicked,
        // They are cancelled with the backend.
        Some(Err(_)) | None => std::future::pending().await,
    }
}

impl Drop for UdpBackend {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reconciler_that_panics_ends_the_backend() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("a fault in the reconciler") });
        assert!(matches!(first_end(&mut tasks).await, BackendError::Panicked));
    }
}
