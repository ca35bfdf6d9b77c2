//! Recreates the overlay device after it disappeared, or for another underlay address.

use tracing::{info, warn};

use super::{DeviceReconciler, addrs};
use crate::control::backend::BackendError;
use crate::control::backend::udp::device::Device;
use crate::control::backend::udp::underlay::room;
use crate::control::conditions::Condition;
use crate::dataplane::io::udp::KernelUdp;
use crate::routes::KernelReceive;

impl DeviceReconciler {
    /// Switches to another address, if ours is gone for good and there is one. Returns whether it
    /// did.
    pub(super) async fn follow_underlay(&mut self) -> Result<bool, BackendError> {
        let overlay = self.link.map(|link| link.index);
        let successor = self.underlay.followed().successor(&self.net, overlay).await;
        let Some(iface) = successor.map_err(BackendError::Kernel)? else { return Ok(false) };
        let bind_addr = self.spec.bind_addr;
        self.spec.bind_addr.set_ip(iface.addr);
        // The old sockets and the device stay until there are new ones.
        let sockets = match self.spec.bind() {
            Ok(sockets) => sockets,
            Err(error) => {
                self.spec.bind_addr = bind_addr;
                return Err(error);
            }
        };
        let old = self.underlay.iface();
        warn!(
            "address {} of interface {} is gone: using {} of {} from now on, peers send to {}",
            old.addr, old.name, iface.addr, iface.name, iface.public_ip
        );
        self.spec.engine.longest_whole = room(iface.mtu);
        self.advertised.update(&iface, KernelReceive::Nothing);
        self.short_cut.reconcile(&self.net, None).await;
        self.underlay.followed_mut().follow(iface);
        self.link = None;
        self.engine.stop();
        self.recreate(sockets).await?;
        Ok(true)
    }

    /// Ends the workers of a device that is gone.
    pub(super) fn give_up_device(&mut self) {
        if self.link.take().is_some() {
            let name = self.engine.name();
            if self.log.is_due("gone") {
                warn!("overlay device {name} disappeared; recreating it");
            }
            let device = Condition::Failed(format!("{name} is gone"));
            self.conditions.send_modify(|conditions| conditions.set("device", device));
        }
        self.engine.stop();
    }

    /// Recreates the device, with workers that have these sockets; the counters continue.
    pub(super) async fn recreate(&mut self, sockets: Vec<KernelUdp>) -> Result<(), BackendError> {
        let name = self.engine.name();
        let made = self.spec.make(&self.net, self.mtu, Some(&name), sockets).await?;
        let Device { name, link, owns_route, source_ports, engine, failures } = made;
        self.source_ports = source_ports;
        info!(device = %name, mtu = link.mtu, "overlay device is up again");
        let own = addrs(self.underlay.iface());
        self.engine.replace(name, own, engine);
        (self.link, self.owns_route, self.failures) = (Some(link), owns_route, failures);
        Ok(())
    }
}
