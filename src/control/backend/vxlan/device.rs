//! The vxlan device: `flannel.VNI`, made as stock makes it, and kept by the same comparison
//! (`createVxlanDevice` in flannel's `pkg/backend/vxlan/device.go`).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::ENCAP_OVERHEAD;
use crate::control::backend::BackendError;
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

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel does not know the kind of device.
    #[error(
        "this kernel has no vxlan: load it with `modprobe vxlan`, or set Backend.Type to udp in \
         the network config of all nodes, which needs no kernel module but tun"
    )]
    NoModule(#[source] KernelError),
    /// The name is taken.
    #[error(
        "{name} is a device of the kind {kind}, not vxlan: delete it with `ip link delete {name}`, \
         or choose another VNI in the network config of all nodes"
    )]
    OtherKind {
        /// The name.
        name: String,
        /// What kind of device has it.
        kind: String,
    },
    /// The kernel wants VNI and port of a device to be its own.
    #[error(
        "another vxlan device has VNI {vni} on the same UDP port (`ip -d link show type vxlan` \
         lists them): delete it, or choose another VNI in the network config of all nodes"
    )]
    VniTaken {
        /// The VNI.
        vni: u32,
        /// What the kernel said.
        #[source]
        source: KernelError,
    },
    /// The kernel's end of the tunnel needs the UDP port.
    #[error(
        "UDP port {port} is taken by another process (ss -ulpn shows by whom): stop that, or change \
         Backend.Port in the network config of all nodes"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// What the kernel said.
        #[source]
        source: KernelError,
    },
    /// The kernel refused something else.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<DeviceError> for BackendError {
    fn from(error: DeviceError) -> Self {
        Self::Device(Box::new(error))
    }
}

/// What a device says of itself, as far as it is compared.
#[derive(Debug, Default)]
struct Settings {
    kind: Option<InfoKind>,
    mac: Option<Mac>,
    vni: Option<u32>,
    lower: Option<u32>,
    local: Option<Ipv4Addr>,
    has_group: bool,
    l2miss: bool,
    port: Option<u16>,
    gbp: bool,
    learning: bool,
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
            Ok(message) => Ok(message.map(|it| (net::link_of(&it), settings(&it)))),
            Err(error) => {
                let error = net::failed(format!("find link {}", self.name), error);
                let is_gone = error.source.raw_os_error() == Some(libc::ENODEV);
                if is_gone { Ok(None) } else { Err(error) }
            }
        }
    }

    /// What of `settings` rules the device out: name, wanted, found. The list is stock's.
    fn difference(&self, settings: &Settings, lower: u32) -> Option<String> {
        let differs = |what: &str, wanted: &dyn ToString, found: Option<&dyn ToString>| {
            let found = found?;
            let (wanted, found) = (wanted.to_string(), found.to_string());
            (wanted != found).then(|| format!("{what}: {wanted} vs {found}"))
        };
        let some = |value: &'_ Option<u32>| value.map(|value| value.to_string());
        let (vni, found_lower) = (some(&settings.vni), some(&settings.lower));
        let port = self.port.and(settings.port);
        differs("vni", &self.vni, vni.as_ref().map(|it| it as &dyn ToString))
            .or_else(|| {
                let found = found_lower.as_ref().map(|it| it as &dyn ToString);
                differs("vtep (external) interface", &lower, found)
            })
            .or_else(|| {
                let found = settings.local.as_ref().map(|it| it as &dyn ToString);
                differs("vtep (external) IP", &self.local, found)
            })
            .or_else(|| settings.has_group.then(|| "group address: none vs one".to_owned()))
            .or_else(|| differs("l2miss", &false, Some(&settings.l2miss)))
            .or_else(|| {
                let wanted = self.port.unwrap_or_default();
                differs("port", &wanted, port.as_ref().map(|it| it as &dyn ToString))
            })
            .or_else(|| differs("gbp", &self.gbp, Some(&settings.gbp)))
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
            match error.source.raw_os_error() {
                Some(libc::EOPNOTSUPP) => DeviceError::NoModule(error),
                Some(libc::EEXIST) => DeviceError::VniTaken { vni: self.vni, source: error },
                _ => DeviceError::Kernel(error),
            }
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

/// Gives the device its only IPv4 address inside `network`, `addr/32`; addresses outside of the
/// network are not ours. Returns whether anything had to be done.
///
/// # Errors
/// [`KernelError`] naming the step.
pub(super) async fn address(
    net: &Netlink,
    link: &Link,
    addr: Ipv4Addr,
    network: Ipv4Network,
) -> Result<bool, KernelError> {
    let mut has_addr = false;
    let mut changed = false;
    let request = net.handle().address().get().set_link_index_filter(link.index);
    let listed: Vec<_> = request
        .execute()
        .try_collect()
        .await
        .map_err(|error| net::failed(format!("list addresses of {}", link.name), error))?;
    for message in listed {
        let local = message.attributes.iter().find_map(|attribute| {
            let AddressAttribute::Local(IpAddr::V4(local)) = attribute else { return None };
            Some(*local)
        });
        match local {
            Some(local) if local == addr && message.header.prefix_len == 32 => has_addr = true,
            Some(local) if network.contains(local) => {
                let prefix_len = message.header.prefix_len;
                let deleted = net.handle().address().del(message).execute().await;
                deleted.map_err(|error| {
                    net::failed(format!("delete address {local} of {}", link.name), error)
                })?;
                tracing::info!("removed IP address {local}/{prefix_len} from {}", link.name);
                changed = true;
            }
            Some(_) | None => {}
        }
    }
    if !has_addr {
        match net.add_addr(link, addr).await {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
            added => added?,
        }
        changed = true;
    }
    Ok(changed)
}

/// Gives `link` the Ethernet address `mac`.
///
/// # Errors
/// [`KernelError`] when the kernel refuses.
pub(super) async fn set_mac(net: &Netlink, link: &Link, mac: Mac) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(link.index).address(mac.octets().to_vec()).build();
    let result = net.handle().link().set(message).execute().await;
    result.map_err(|error| net::failed(format!("set address {mac} on {}", link.name), error))
}

fn settings(message: &LinkMessage) -> Settings {
    let mut settings = Settings::default();
    for attribute in &message.attributes {
        if let LinkAttribute::Address(octets) = attribute {
            settings.mac = Mac::from_slice(octets);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    settings.kind = Some(kind.clone());
                } else if let LinkInfo::Data(InfoData::Vxlan(infos)) = info {
                    infos.iter().for_each(|info| settings.take(info));
                }
            }
        }
    }
    settings
}

impl Settings {
    fn take(&mut self, info: &InfoVxlan) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many more settings")]
        match info {
            InfoVxlan::Id(vni) => self.vni = Some(*vni),
            InfoVxlan::Link(lower) => self.lower = Some(*lower),
            InfoVxlan::Local(local) => self.local = Some(*local),
            InfoVxlan::Group(_) | InfoVxlan::Group6(_) => self.has_group = true,
            InfoVxlan::L2Miss(on) => self.l2miss = *on,
            InfoVxlan::Port(port) => self.port = Some(*port),
            InfoVxlan::Gbp => self.gbp = true,
            InfoVxlan::Learning(on) => self.learning = *on,
            _ => {}
        }
    }
}
