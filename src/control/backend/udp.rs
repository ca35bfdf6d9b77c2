//! The udp backend: a TUN device, sockets on the external interface, and workers between them.
//!
//! Parity is with flannel's `pkg/backend/udp`: the same device and addresses, the same datagrams.
//! Every lease under the prefix is a peer at its public IP and *our* port, whatever the lease says
//! of its backend.

mod device;
mod keeper;
mod peer_routes;
mod peers;
mod shadows;
mod source_ports;
mod underlay;
mod ways;
pub mod host_state;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use self::device::Recipe;
use self::keeper::{Keeper, Running, Says};
use self::peer_routes::{HostRoads, PeerRoutes};
use self::peers::Peers;
use self::shadows::{PeerSubnets, Shadows};
pub use self::source_ports::SourcePorts;
use self::underlay::Underlay;
pub(in crate::control) use self::underlay::first_tun_mtu;
use super::{Backend, BackendError, BackendStats};
use crate::control::backend::udp::host_state::HostState;
use crate::control::conditions::Conditions;
use crate::control::config::network::NetworkConfig;
use crate::control::host::host_id::HostId;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::dataplane::engine::Counters;
use crate::dataplane::io::tun::TunConfig;
use crate::dataplane::io::udp::{KernelUdp, LongDatagrams};
use crate::dataplane::stats::peers::PeerCount;
use crate::dataplane::{EngineConfig, Offloads, ThreadConfig};
use crate::routes::publish;

/// Whether the overlay's port could be bound now. It is closed again at once.
///
/// # Errors
/// [`BackendError::PortTaken`] and [`BackendError::Udp`].
pub(in crate::control) fn check_port(addr: Ipv4Addr, port: u16) -> Result<(), BackendError> {
    let addr = SocketAddrV4::new(addr, port);
    device::bind(addr, 1, Offloads::OFF, LongDatagrams::Refused).map(drop)
}

/// What the udp backend must know.
#[derive(Debug, Clone)]
pub struct UdpSetup {
    /// Carries the underlay.
    pub iface: ExternalInterface,
    /// How it was chosen, to choose again when its address is gone.
    pub choice: IfaceChoice,
    /// The overlay.
    pub network: NetworkConfig,
    /// Where we and all peers listen.
    pub port: u16,
    /// MTU of the overlay in bytes, if the operator chose one.
    pub mtu: Option<u16>,
    /// Workers, each with a TUN queue and a socket.
    pub num_workers: usize,
    /// Offloads that may be used.
    pub offloads: Offloads,
    /// Whether flows may be told apart by their outer source port.
    pub source_ports: SourcePorts,
    /// Which host this is, for leases that may say more than stock's.
    pub host: Option<HostId>,
    /// How the workers share the cores.
    pub threads: ThreadConfig,
}

/// The sockets of a udp backend that has no lease yet.
#[derive(Debug)]
pub struct UdpPrepared {
    setup: UdpSetup,
    mtu: u16,
    long_datagrams: LongDatagrams,
    sockets: Vec<KernelUdp>,
}

/// The running udp backend.
#[derive(Debug)]
pub struct UdpBackend {
    mtu: u16,
    running: Arc<Running>,
    host_state: watch::Receiver<HostState>,
    attrs: watch::Receiver<LeaseAttrs>,
    /// The keeper, and the netlink socket that it reads.
    tasks: JoinSet<BackendError>,
    routes: PeerRoutes,
    peer_subnets: Arc<PeerSubnets>,
    /// What looks at other routes.
    _watch: JoinSet<()>,
}

impl Backend for UdpBackend {
    type Setup = UdpSetup;
    type Prepared = UdpPrepared;

    fn public_ip(setup: &UdpSetup) -> Ipv4Addr {
        setup.iface.public_ip
    }

    async fn prepare(
        setup: UdpSetup,
        _previous: Option<&LeaseAttrs>,
    ) -> Result<(UdpPrepared, LeaseAttrs), BackendError> {
        let (mtu, long_datagrams) = first_tun_mtu(&setup.iface, setup.mtu)?;
        let attrs = source_ports::attrs(&setup.iface, setup.source_ports, setup.host.as_ref());
        let sockets =
            device::bind(setup.bind_addr(), setup.num_workers, setup.offloads, long_datagrams)?;
        Ok((UdpPrepared { setup, mtu, long_datagrams, sockets }, attrs))
    }

    async fn start(prepared: UdpPrepared, lease: &Lease) -> Result<Self, BackendError> {
        let UdpPrepared { setup, mtu, long_datagrams, sockets } = prepared;
        let (spreads_flows, bind_addr) = (setup.spreads_flows(), setup.bind_addr());
        let UdpSetup { iface, network, port, num_workers, offloads, threads, .. } = setup;
        let longest_whole = underlay::room(iface.mtu);
        // Before anything is made: no change is missed.
        let (connection, net, changes) = net::watch().map_err(BackendError::Kernel)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            connection.await;
            BackendError::NetlinkLost
        });
        let (publisher, routes) = publish::channel(network.network, network.subnet_len);
        let (subnet, tun_addr) = (lease.subnet, lease.subnet.network());
        let recipe = Recipe {
            tun: TunConfig { name: String::new(), num_queues: num_workers, offloads },
            network: network.network,
            bind_addr,
            engine: EngineConfig {
                subnet,
                tun_addr,
                tun_mtu: mtu,
                longest_whole,
                long_datagrams,
                threads,
            },
            routes,
            counters: Counters::new(num_workers),
        };
        let device = recipe.make(&net, mtu, None, sockets).await?;
        info!(device = %device.name, mtu, workers = num_workers, "overlay device is up");

        let own = [iface.addr, iface.public_ip];
        let counters = recipe.counters.clone();
        let src_net = net.clone();
        let attrs = source_ports::attrs(&iface, setup.source_ports, setup.host.as_ref());
        let attrs = watch::Sender::new(attrs);
        let says = Says { source_ports: setup.source_ports, host: setup.host, attrs };
        let underlay = Underlay::new(iface, setup.choice, mtu, setup.mtu.is_some());
        let keeper = Keeper::new((net, changes), recipe, underlay, says, device);
        let (running, host_state, attrs) = (keeper.running(), keeper.state(), keeper.attrs());
        let peer_subnets = Arc::new(PeerSubnets::default());
        let shadows = Shadows {
            network: network.network,
            own: subnet,
            peers: Arc::clone(&peer_subnets),
            running: Arc::clone(&running),
            state: keeper.teller(),
        };
        tasks.spawn(keeper.keep());
        let mut watch = JoinSet::new();
        watch.spawn(shadows.keep());
        let peers = Peers::new(port, spreads_flows, own);
        let roads = HostRoads { net: src_net, running: Arc::clone(&running) };
        let routes = PeerRoutes::new(peers, publisher, counters, network.network, roads);
        Ok(Self { mtu, running, host_state, attrs, tasks, routes, peer_subnets, _watch: watch })
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        self.peer_subnets.apply(&events);
        self.routes.set_own(self.running.own());
        self.routes.apply(&events);
    }

    async fn failed(&mut self) -> BackendError {
        tokio::select! {
            ended = first_end(&mut self.tasks) => ended,
            never = self.routes.tend() => match never {},
        }
    }

    fn synced(&mut self) {}

    fn conditions(&self) -> Conditions {
        Conditions::from(&*self.host_state.borrow())
    }

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.attrs.clone())
    }

    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        let counters = self.running.counters();
        (counters.to_peers(), counters.from_peers())
    }

    fn device(&self) -> String {
        self.running.name()
    }

    fn num_peers(&self) -> usize {
        self.routes.num_routes()
    }

    fn stats(&self) -> BackendStats {
        let dataplane = Some(self.running.counters().snapshot());
        BackendStats { device: self.device(), num_peers: self.num_peers(), dataplane }
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
        self.running.stop();
    }
}

impl UdpSetup {
    /// What the sockets are bound to.
    const fn bind_addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.iface.addr, self.port)
    }

    /// Whether flows to and from us may use any source port.
    fn spreads_flows(&self) -> bool {
        source_ports::spreads_flows(&self.iface, self.source_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeper_that_panics_is_heard() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("a fault in the keeper") });
        assert!(matches!(first_end(&mut tasks).await, BackendError::Panicked));
    }
}
