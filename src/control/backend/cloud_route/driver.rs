//! [`CloudDriver`]: a cloud backend, configured; then started.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tracing::info;

use super::forwarding::CloudRoute;
use super::{Cloud, CloudError, Wanted};
use crate::control::backend::mtu::kernel_mtu;
use crate::control::backend::peer_routes::Underlay;
use crate::control::backend::{
    Backend, BackendError, BackendSetup, Driver, Plan, Prepared, Preparing, Starting,
};
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::error_chain::error_chain;

/// How long the start waits for the first attempt at the route. The lease is ours by then, and the
/// attempts go on.
const FIRST_ATTEMPT: Duration = Duration::from_secs(60);

/// The backend of a cloud, configured.
#[derive(Debug)]
pub(in crate::control::backend) struct CloudDriver<C> {
    iface: ExternalInterface,
    choice: IfaceChoice,
    network: Ipv4Network,
    /// MTU of the overlay in bytes, if the operator chose one by flag.
    mtu: Option<u16>,
    cloud: Result<C, CloudError>,
}

/// The same, with what is known to be usable; it holds no resource of the host.
struct CloudPrepared<C> {
    iface: ExternalInterface,
    choice: IfaceChoice,
    network: Ipv4Network,
    mtu: u16,
    cloud: C,
}

impl<C: Cloud> CloudDriver<C> {
    /// The backend with these settings, for this cloud.
    pub(in crate::control::backend) fn new(
        setup: BackendSetup,
        cloud: Result<C, CloudError>,
    ) -> Self {
        let BackendSetup { iface, choice, network, mtu, .. } = setup;
        Self { iface, choice, network: network.v4.network, mtu, cloud }
    }

    /// MTU of the overlay, in bytes: that of the interface.
    fn overlay_mtu(&self) -> Result<u16, BackendError> {
        kernel_mtu(&self.iface, None, 0, self.mtu)
    }
}

impl<C: Cloud> Driver for CloudDriver<C> {
    fn public_ip(&self) -> Ipv4Addr {
        self.iface.public_ip
    }

    fn plan(&self) -> Plan {
        let mtu = self.overlay_mtu();
        let (name, routes) = (&self.iface.name, C::ROUTES);
        let device = mtu.as_ref().ok().map(|mtu| format!("none: {routes}, by {name}, MTU {mtu}"));
        let cloud = self.cloud.as_ref().err().map(ToString::to_string);
        let mtu = mtu.err().map(|error| error_chain(&error));
        Plan { device, listen: None, problems: cloud.into_iter().chain(mtu).collect() }
    }

    fn prepare<'a>(self: Box<Self>, _previous: Option<&'a LeaseAttrs>) -> Preparing<'a> {
        Box::pin(async move {
            let mtu = self.overlay_mtu()?;
            let Self { iface, choice, network, cloud, .. } = *self;
            let cloud = cloud.map_err(|error| BackendError::Cloud(error.to_string()))?;
            // Without a `BackendType`, as stock.
            let attrs = LeaseAttrs::udp(iface.public_ip);
            let prepared = CloudPrepared { iface, choice, network, mtu, cloud };
            Ok((Box::new(prepared) as Box<dyn Prepared>, attrs))
        })
    }
}

impl<C: Cloud> Prepared for CloudPrepared<C> {
    fn start<'a>(self: Box<Self>, lease: &'a Lease) -> Starting<'a> {
        Box::pin(async move {
            let Self { iface, choice, network, mtu, cloud } = *self;
            let (connection, net) = net::connect().map_err(BackendError::Kernel)?;
            tokio::spawn(connection);
            let (device, addr) = (iface.name.clone(), iface.addr);
            let mut underlay = Underlay::new(iface, choice);
            let link = underlay.link(&net, None).await.map_err(BackendError::Kernel)?;
            let link = link.ok_or(BackendError::NoUnderlay { addr })?;
            info!(interface = %link.name, mtu, "{} is to send packets for our subnet here", C::ROUTES);
            let wanted = Wanted { subnet: lease.subnet, network, addr };
            let mut backend = CloudRoute::start((device, mtu), wanted, cloud, (net, underlay));
            backend.attempted(FIRST_ATTEMPT).await;
            Ok(Box::new(backend) as Box<dyn Backend>)
        })
    }
}
