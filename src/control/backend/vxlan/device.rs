//! The vxlan device: `flannel.VNI`, made as stock makes it, and kept by the same comparison
//! (`createVxlanDevice` in flannel's `pkg/backend/vxlan/device.go`).

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::LinkVxlan;
use rtnetlink::packet_route::link::InfoKind;

use super::ENCAP_OVERHEAD;
use super::device_error::DeviceError;
use super::settings::Settings;
use crate::control::backend::mtu::MIN_MTU;
use crate::control::backend::peer_routes::Mac;
use crate::control::host::net;
use crate::control::host::net::{HostNet, KernelError, Link, Netlink};

/// What the kernel takes for a device without a port (`vxlan_port` in `drivers/net/vxlan`).
const DEFAULT_PORT: u16 = 8472;

/// The device as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceSpec {
    pub(super) name: String,
    pub(super) vni: u32,
    /// UDP port; `None` for the kernel's default, 8472.
    pub(super) port: Option<u16>,
    pub(super) learning: bool,
    pub(super) gbp: bool,
    /// Outer source address. Stock from 0.27.4 on takes the public IP, with which every packet is
    /// dropped where a NAT has it.
    pub(super) local: Ipv4Addr,
    /// In bytes, if the link below leaves room for as much.
    pub(super) mtu: u32,
}

/// The device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) link: Link,
    pub(super) mac: Mac,
}

impl DeviceSpec {
    /// Finds the device, keeps it if its settings are these, and makes it if not. A new one gets
    /// the address `mac`; a kept one keeps its own, so that no peer needs to learn another.
    ///
    /// # Errors
    /// [`DeviceError`]; an incompatible device may be deleted by then.
    ///
    /// # Cancel safety
    /// Dropped half-way it leaves a device that the next call finds.
    pub(super) async fn ensure(
        &self,
        net: &Netlink,
        lower: &Link,
        mac: Mac,
    ) -> Result<Device, DeviceError> {
        let existing = self.find(net).await?;
        if let Some((link, settings)) = existing {
            if settings.kind.as_ref() != Some(&InfoKind::Vxlan) {
                let kind = settings.kind.map_or("unknown".to_owned(), |kind| kind.to_string());
                return Err(DeviceError::OtherKind { name: self.name.clone(), kind });
            }
            match (self.difference(&settings, lower.index), settings.mac) {
                (None, Some(mac)) => {
                    let mtu = self.mtu_on(lower);
                    return Ok(self.adjusted(net, link, mtu, mac, &settings).await?);
                }
                (difference, _) => {
                    let difference = difference.unwrap_or_else(|| "no address".to_owned());
                    tracing::warn!(
                        "{:?} already exists with incompatible configuration: {difference}; \
                         recreating device",
                        self.name,
                    );
                    let deleted = net.handle().link().del(link.index).execute().await;
                    deleted.map_err(|error| {
                        net::failed(format!("delete device {}", self.name), error)
                    })?;
                }
            }
        }
        self.create(net, lower, mac).await
    }

    /// The device of our name, whatever it is.
    async fn find(&self, net: &Netlink) -> Result<Option<(Link, Settings)>, KernelError> {
        let mut found = pin!(net.handle().link().get().match_name(&self.name).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.map(|it| (net::link_of(&it), Settings::of(&it)))),
            Err(error) => {
                let error = net::failed(format!("find link {}", self.name), error);
                let is_gone = error.source.raw_os_error() == Some(libc::ENODEV);
                if is_gone { Ok(None) } else { Err(error) }
            }
        }
    }

    /// A kept device with the settings that can be changed in place: stock leaves these alone, and
    /// then FLANNEL_MTU is not the device's.
    async fn adjusted(
        &self,
        net: &Netlink,
        link: Link,
        mtu: u32,
        mac: Mac,
        settings: &Settings,
    ) -> Result<Device, KernelError> {
        if link.mtu != mtu {
            net.set_mtu(&link, mtu).await?;
            tracing::info!("MTU of {} was {}, and is {mtu} now", self.name, link.mtu);
        }
        if settings.learning != self.learning {
            let info = LinkVxlan::new(&self.name, self.vni).learning(self.learning).build();
            let mut message = info;
            message.header.index = link.index;
            let changed = net.handle().link().set(message).execute().await;
            changed
                .map_err(|error| net::failed(format!("set learning of {}", self.name), error))?;
        }
        Ok(Device { link: Link { mtu, ..link }, mac })
    }

    /// The most that `lower` leaves room for: the kernel refuses more to a device that exists, and
    /// silently gives less to a new one.
    fn mtu_on(&self, lower: &Link) -> u32 {
        self.mtu.min(lower.mtu.saturating_sub(ENCAP_OVERHEAD).max(MIN_MTU))
    }

    async fn create(&self, net: &Netlink, lower: &Link, mac: Mac) -> Result<Device, DeviceError> {
        let mut builder = LinkVxlan::new(&self.name, self.vni)
            .dev(lower.index)
            .local(self.local)
            .learning(self.learning);
        if let Some(port) = self.port {
            builder = builder.port(port);
        }
        if self.gbp {
            builder = builder.gbp();
        }
        let message =
            builder.address(mac.octets().to_vec()).mtu(self.mtu_on(lower)).txqueuelen(0).build();
        let added = net.handle().link().add(message).execute().await;
        added.map_err(|error| {
            let error = net::failed(format!("create vxlan device {}", self.name), error);
            DeviceError::of_creation(self.vni, error)
        })?;
        // Router advertisements are not for an overlay; a kernel without IPv6 has no such file.
        drop(fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", self.name), "0"));
        let link = net.link(&self.name).await?;
        tracing::info!("vxlan device {} created with address {mac}", self.name);
        Ok(Device { link, mac })
    }
}

impl DeviceSpec {
    /// Brings the device up, which opens its UDP port.
    ///
    /// # Errors
    /// [`DeviceError::PortTaken`], or what else the kernel said.
    pub(super) async fn bring_up(&self, net: &Netlink, link: &Link) -> Result<(), DeviceError> {
        let port = self.port.unwrap_or(DEFAULT_PORT);
        net.set_up(link).await.map_err(|error| {
            if error.source.kind() == io::ErrorKind::AddrInUse {
                DeviceError::PortTaken { port, source: error }
            } else {
                DeviceError::Kernel(error)
            }
        })
    }
}
