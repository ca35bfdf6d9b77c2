//! The udp backend: a TUN device, sockets on the external interface, and workers between them.
//!
//! Parity is with flannel's `pkg/backend/udp`: the same device and addresses, the same datagrams.
//! Every lease under the prefix is a peer at its public IP and *our* port, whatever the lease says
//! of its backend.

mod peers;
mod source_ports;

use std::io;
use std::net::SocketAddrV4;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use self::peers::Peers;
pub use self::source_ports::SourcePorts;
use super::{Backend, BackendError, BackendStats};
use crate::control::config::NetworkConfig;
use crate::control::host_state::HostState;
use crate::control::iface::ExternalInterface;
use crate::control::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::dataplane::peer_counters::PeerCount;
use crate::dataplane::pmtu::{ENCAP_OVERHEAD_V4, MIN_IPV4_MTU};
use crate::dataplane::tun::TunConfig;
use crate::dataplane::udp::{KernelUdp, LongDatagrams, UdpError, bind_group};
use crate::dataplane::{Engine, EngineConfig, EngineError, Offloads, ThreadConfig};
use crate::routes::kernel::{self, Netlink, OverlayLink};
use crate::routes::publish::{self, RoutePublisher};

/// The longest IPv4 packet, in bytes: RFC 791, section 3.1. A loopback's MTU is longer.
const MAX_IPV4_LEN: u32 = 65535;

/// What the udp backend must know.
#[derive(Debug, Clone)]
pub struct UdpSetup {
    /// The host's links, addresses and routes.
    pub net: Netlink,
    /// Carries the underlay.
    pub iface: ExternalInterface,
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
    /// How the workers share the cores.
    pub threads: ThreadConfig,
}

/// The running udp backend.
#[derive(Debug)]
pub struct UdpBackend {
    device: String,
    mtu: u16,
    engine: Engine,
    failures: mpsc::Receiver<EngineError>,
    host_state: watch::Sender<HostState>,
    peers: Peers,
    publisher: RoutePublisher,
}

impl Backend for UdpBackend {
    type Setup = UdpSetup;

    fn attrs(setup: &UdpSetup) -> LeaseAttrs {
        let attrs = LeaseAttrs::udp(setup.iface.public_ip);
        if setup.spreads_flows() { source_ports::advertise(attrs) } else { attrs }
    }

    async fn start(setup: UdpSetup, lease: &Lease) -> Result<Self, BackendError> {
        let spreads_flows = setup.spreads_flows();
        let UdpSetup { net, iface, network, port, num_workers, offloads, threads, .. } = setup;
        let (mtu, long_datagrams) = tun_mtu(&iface, setup.mtu)?;
        let tun = TunConfig { name: "flannel%d".to_owned(), num_queues: num_workers, offloads };
        let tun = tun.open().map_err(BackendError::Tun)?;
        let device = tun.name.clone();
        let (subnet, tun_addr) = (lease.subnet, lease.subnet.addr());
        let link = OverlayLink { name: &device, addr: tun_addr, mtu, network: network.network };
        kernel::configure(&net, &link).await.map_err(BackendError::Kernel)?;

        let sockets =
            bind(SocketAddrV4::new(iface.addr, port), num_workers, offloads, long_datagrams)?;
        let (publisher, routes) = publish::channel();
        let config = EngineConfig { subnet, tun_addr, tun_mtu: mtu, long_datagrams, threads };
        let engine = Engine::start(config, tun, sockets, routes).map_err(BackendError::Engine)?;
        let failures = forward_failures(&engine)?;
        info!(%device, mtu, workers = num_workers, "overlay device is up");
        let peers = Peers::new(&network, port, spreads_flows);
        let host_state = watch::Sender::new(HostState::default());
        Ok(Self { device, mtu, engine, failures, host_state, peers, publisher })
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        for event in events {
            self.peers.apply(&event);
        }
        self.publisher.publish(self.peers.route_table());
    }

    async fn failed(&mut self) -> BackendError {
        match self.failures.recv().await {
            Some(error) => BackendError::Engine(error),
            None => std::future::pending().await,
        }
    }

    fn host_state(&self) -> watch::Receiver<HostState> {
        self.host_state.subscribe()
    }

    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        (self.engine.to_peers(), self.engine.from_peers())
    }

    fn stats(&self) -> BackendStats {
        let dataplane = self.engine.stats();
        BackendStats { device: self.device.clone(), num_peers: self.peers.len(), dataplane }
    }
}

impl UdpSetup {
    /// Whether flows to and from us may use any source port. Behind a NAT only the network's own
    /// port is known to pass.
    fn spreads_flows(&self) -> bool {
        self.source_ports == SourcePorts::Auto && self.iface.public_ip == self.iface.addr
    }
}

/// MTU of the overlay device, and what becomes of the longest datagrams on a path that does not
/// take them: an operator's choice that the interface itself does not take needs fragments.
fn tun_mtu(
    iface: &ExternalInterface,
    chosen: Option<u16>,
) -> Result<(u16, LongDatagrams), BackendError> {
    let min = u32::from(MIN_IPV4_MTU) + ENCAP_OVERHEAD_V4;
    if iface.mtu < min {
        return Err(BackendError::SmallMtu { name: iface.name.clone(), mtu: iface.mtu, min });
    }
    let room = iface.mtu.min(MAX_IPV4_LEN) - ENCAP_OVERHEAD_V4;
    let room = u16::try_from(room).unwrap_or(u16::MAX);
    let mtu = chosen.unwrap_or(room);
    if mtu <= room {
        return Ok((mtu, LongDatagrams::Refused));
    }
    warn!(
        mtu, interface = %iface.name, interface_mtu = iface.mtu,
        "the overlay's MTU is more than the interface leaves room for: \
         outer datagrams will be fragmented"
    );
    Ok((mtu, LongDatagrams::Fragmented))
}

fn bind(
    addr: SocketAddrV4,
    num_sockets: usize,
    offloads: Offloads,
    long_datagrams: LongDatagrams,
) -> Result<Vec<KernelUdp>, BackendError> {
    bind_group(addr, num_sockets, offloads, long_datagrams).map_err(|error| match &error {
        UdpError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            BackendError::PortTaken(error)
        }
        UdpError::Bind { .. } | UdpError::Socket { .. } => BackendError::Udp(error),
    })
}

/// Carries failures from the engine's channel, which only a thread can wait on, to one that a
/// task can. The thread ends with the engine.
fn forward_failures(engine: &Engine) -> Result<mpsc::Receiver<EngineError>, BackendError> {
    let (sender, receiver) = mpsc::channel(1);
    let failures = engine.failures();
    std::thread::Builder::new()
        .name("flannel-failure".to_owned())
        .spawn(move || {
            if let Ok(error) = failures.recv() {
                // Nobody listens any more when we are about to end anyway.
                drop(sender.blocking_send(error));
            }
        })
        .map_err(BackendError::Thread)?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_log::Logs;

    fn iface(mtu: u32) -> ExternalInterface {
        let addr = "10.0.0.7".parse().unwrap();
        ExternalInterface { name: "eth0".to_owned(), mtu, addr, public_ip: addr }
    }

    #[test]
    fn tun_mtu_leaves_room_for_the_outer_headers() {
        for (link, tun) in [(1500, 1472), (9001, 8973), (1450, 1422), (1280, 1252)] {
            assert_eq!(tun_mtu(&iface(link), None).unwrap(), (tun, LongDatagrams::Refused));
        }
    }

    #[test]
    fn tun_mtu_stays_within_what_one_datagram_holds() {
        assert_eq!(tun_mtu(&iface(65536), None).unwrap().0, 65507);
        assert_eq!(tun_mtu(&iface(u32::MAX), None).unwrap().0, 65507);
        assert_eq!(tun_mtu(&iface(96), None).unwrap().0, 68);
        let error = tun_mtu(&iface(95), None).unwrap_err().to_string();
        assert_eq!(error, "interface eth0 has MTU 95, too small for an overlay: 96 is the least");
    }

    #[test]
    fn chosen_mtu_wins_and_one_that_needs_fragments_is_told() {
        let logs = Logs::capture();
        assert_eq!(tun_mtu(&iface(1500), Some(1400)).unwrap(), (1400, LongDatagrams::Refused));
        assert_eq!(tun_mtu(&iface(1500), Some(1472)).unwrap(), (1472, LongDatagrams::Refused));
        assert_eq!(logs.count("WARN"), 0);
        assert_eq!(tun_mtu(&iface(1500), Some(1473)).unwrap(), (1473, LongDatagrams::Fragmented));
        assert!(logs.lines_with("will be fragmented")[0].contains("mtu=1473"));
    }

    #[test]
    fn taken_port_says_who_to_ask() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(addr) = holder.local_addr().unwrap() else { panic!() };
        let error = bind(addr, 1, Offloads::OFF, LongDatagrams::Refused).unwrap_err();
        assert!(matches!(error, BackendError::PortTaken(_)), "{error}");
    }
}
