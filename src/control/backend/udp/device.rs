//! The overlay device with its workers: made at the start, and again if it disappears.

use std::io;
use std::net::SocketAddrV4;

use ipnetwork::Ipv4Network;
use tokio::sync::mpsc;

use crate::control::backend::BackendError;
use crate::control::host::net;
use crate::control::host::net::{Netlink, OverlayLink};
use crate::dataplane::engine::Counters;
use crate::dataplane::io::tun::TunConfig;
use crate::dataplane::io::udp::{KernelUdp, LongDatagrams, Steering, UdpError, bind_group};
use crate::dataplane::{Engine, EngineConfig, EngineError, Offloads};
use crate::routes::publish::RouteSubscriber;

/// The kernel gives the first number that is free.
const NAME_TEMPLATE: &str = "flannel%d";

/// What the device is made from.
#[derive(Debug)]
pub(super) struct DeviceSpec {
    /// The device's queues; the name does not count.
    pub(super) tun: TunConfig,
    /// Routed into the device.
    pub(crate) network: Ipv4Network,
    /// What the sockets are bound to.
    pub(super) bind_addr: SocketAddrV4,
    /// Which socket receives what.
    pub(super) steering: Steering,
    /// What the workers must know.
    pub(super) engine: EngineConfig,
    /// Where the workers find the peers.
    pub(super) routes: RouteSubscriber,
    /// The counters, which go on when the device is made again.
    pub(super) counters: Counters,
}

/// The device, up and served.
#[derive(Debug)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: String,
    /// As it should be.
    pub(super) link: OverlayLink,
    /// The Network is routed to it, not elsewhere.
    pub(super) owns_route: bool,
    /// Ports of the workers' further sockets.
    pub(super) source_ports: [u16; 8],
    /// Its workers. The device goes with them.
    pub(super) engine: Engine,
    /// Why a worker ended by itself.
    pub(super) failures: mpsc::Receiver<EngineError>,
}

impl DeviceSpec {
    /// Makes the device with this MTU, and under this name if it is given and free, for workers
    /// that have these sockets.
    ///
    /// # Errors
    /// [`BackendError`]; nothing is left on the host then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing on the host.
    pub(super) async fn make(
        &self,
        net: &Netlink,
        mtu: u16,
        name: Option<&str>,
        sockets: Vec<KernelUdp>,
    ) -> Result<Device, BackendError> {
        let open = |name: &str| TunConfig { name: name.to_owned(), ..self.tun.clone() }.open();
        let tun = match name.map_or_else(|| open(NAME_TEMPLATE), open) {
            Err(error) if error.is_name_taken() => open(NAME_TEMPLATE),
            made => made,
        };
        let tun = tun.map_err(BackendError::Tun)?;
        let (addr, network) = (self.engine.tun_addr, self.network);
        let link = |index| OverlayLink { index, addr, mtu, network };
        let (link, found) =
            net::configure(net, &tun.name, link).await.map_err(BackendError::Kernel)?;
        let source_ports = sockets.first().map_or([0; 8], KernelUdp::source_ports);
        let (routes, counters) = (self.routes.clone(), self.counters.clone());
        let (sender, failures) = mpsc::channel(1);
        // The first failure is enough: it ends the engine, so later ones find the channel full.
        let report = move |error| drop(sender.try_send(error));
        let engine = Engine::start(self.engine.clone(), tun, sockets, routes, counters, report);
        let engine = engine.map_err(BackendError::Engine)?;
        let (name, owns_route) = (found.name, found.owns_route);
        Ok(Device { name, link, owns_route, source_ports, engine, failures })
    }

    /// The sockets for [`make`](Self::make), which must come first: where they are not to be had,
    /// a device would be made for nothing.
    ///
    /// # Errors
    /// [`BackendError::PortTaken`] and [`BackendError::Udp`].
    pub(super) fn bind(&self) -> Result<Vec<KernelUdp>, BackendError> {
        let TunConfig { num_queues, offloads, .. } = self.tun;
        let long_datagrams = self.engine.long_datagrams;
        bind(self.bind_addr, num_queues, self.steering, offloads, long_datagrams)
    }
}

/// Binds one socket for each of the `num_queues` workers.
///
/// # Errors
/// [`BackendError::PortTaken`] and [`BackendError::Udp`].
pub(super) fn bind(
    addr: SocketAddrV4,
    num_queues: usize,
    steering: Steering,
    offloads: Offloads,
    long_datagrams: LongDatagrams,
) -> Result<Vec<KernelUdp>, BackendError> {
    bind_group(addr, num_queues, steering, offloads, long_datagrams).map_err(|error| match &error {
        UdpError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            BackendError::PortTaken(error)
        }
        UdpError::Bind { .. } | UdpError::Socket { .. } => BackendError::Udp(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_says_who_to_ask() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(addr) = holder.local_addr().unwrap() else { panic!() };
        let refused = LongDatagrams::Refused;
        let error = bind(addr, 1, Steering::Together, Offloads::OFF, refused).unwrap_err();
        assert!(matches!(error, BackendError::PortTaken(_)), "{error}");
    }
}
