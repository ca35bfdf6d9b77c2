//! [`GpeDevice`]: the vxlan device that takes superpackets apart. See `bpf/ingress.h`.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use rtnetlink::packet_route::link::InfoVxlan;
use rtnetlink::{LinkUnspec, LinkVxlan};
use tokio::runtime::Builder;
use tracing::warn;

use crate::control::host::net::{self, HostNet, KernelError, Netlink};
use crate::control::util::error_chain::error_chain;
use crate::dataplane::fast_path::{DeviceRef, Gpe};

/// The device, up. It is deleted when the value is dropped.
#[derive(Debug)]
pub(super) struct GpeDevice {
    device: DeviceRef,
    port: u16,
}

impl GpeDevice {
    /// Makes `flannel0.gpe` for `flannel0`; replaces one that an earlier flanneld left.
    ///
    /// # Errors
    /// [`KernelError`], as where the kernel has no vxlan.
    pub(super) async fn make(
        netlink: &Netlink,
        overlay: &str,
        overlay_port: u16,
    ) -> Result<Self, KernelError> {
        let name = format!("{overlay}.gpe");
        let failed = |error| net::failed(format!("make device {name}"), error);
        if let Ok(left_over) = netlink.link(&name).await {
            netlink.handle().link().del(left_over.index).execute().await.map_err(failed)?;
        }
        let port = free_port(overlay_port);
        let message = LinkVxlan::new(&name, 0)
            .append_info_data(InfoVxlan::CollectMetadata(true))
            .learning(false)
            .port(port)
            .gpe()
            .build();
        netlink.handle().link().add(message).execute().await.map_err(failed)?;
        let link = netlink.link(&name).await?;
        let device = DeviceRef { index: link.index, name: name.clone() };
        let made = Self { device, port };
        let up = LinkUnspec::new_with_index(link.index).up().build();
        netlink.handle().link().set(up).execute().await.map_err(failed)?;
        Ok(made)
    }

    pub(super) const fn index(&self) -> u32 {
        self.device.index
    }

    /// Whether nobody deleted it, as far as we can tell.
    pub(super) async fn exists(&self, netlink: &Netlink) -> bool {
        !matches!(netlink.link_at(self.device.index).await, Ok(None))
    }

    pub(super) fn as_config(&self, vni: u32, merges: bool) -> Gpe {
        Gpe { device: self.device.clone(), port: self.port, vni, merges }
    }
}

/// How far the port is from the overlay's: a firewall may be told of it, and hardly another overlay
/// of this host has it.
const PORT_DISTANCE: u16 = 10_000;

/// A port that nobody has.
fn free_port(overlay_port: u16) -> u16 {
    let bind = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let usual = overlay_port.checked_add(PORT_DISTANCE).unwrap_or(0);
    let socket = bind(usual).or_else(|_| bind(0));
    socket.and_then(|socket| socket.local_addr()).map_or(usual, |addr| addr.port())
}

impl Drop for GpeDevice {
    /// Nobody awaits a drop, so it is done on a thread that does nothing else.
    fn drop(&mut self) {
        let index = self.device.index;
        let delete = move || -> Result<(), KernelError> {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| KernelError::new("start a runtime", error))?;
            runtime.block_on(async {
                let (connection, netlink) = net::connect()?;
                tokio::spawn(connection);
                let deleted = netlink.handle().link().del(index).execute().await;
                deleted.map_err(|error| net::failed("delete device".to_owned(), error))
            })
        };
        if let Ok(Err(error)) = thread::spawn(delete).join()
            && error.source.raw_os_error() != Some(libc::ENODEV)
        {
            warn!("{}: {}", self.device.name, error_chain(&error));
        }
    }
}
