//! `Backend` of the network config: which one, and its settings.

use std::fmt;
use std::str::FromStr;

use super::network::{BOOL, ConfigError, MAX_OVERLAY_MTU, MIN_OVERLAY_MTU};
use crate::control::util::json_object::{Object, WrongType};

/// A backend with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendConfig {
    /// One packet per UDP datagram.
    Udp(UdpConfig),
    /// The kernel's vxlan tunnel.
    Vxlan(VxlanConfig),
    /// Plain routes between hosts of one layer-2 network.
    HostGw,
    /// Routes of a Google Compute Engine network.
    Gce,
    /// Routes of an Amazon VPC.
    #[cfg(feature = "aws")]
    AwsVpc(AwsVpcConfig),
}

/// Settings of the aws-vpc backend.
#[cfg(feature = "aws")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AwsVpcConfig {
    /// The tables that are to have a route to each node; if there are none, the table of the
    /// node's own VPC subnet.
    pub route_tables: Vec<String>,
}

/// Settings of the udp backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConfig {
    /// The UDP port of all nodes.
    pub port: u16,
    /// MTU of the overlay in bytes; `None` for what the external interface leaves room for.
    pub mtu: Option<u16>,
}

/// Settings of the vxlan backend, as in flannel's `pkg/backend/vxlan/vxlan.go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanConfig {
    /// VXLAN network identifier, of 24 bits.
    pub vni: u32,
    /// UDP port; `None` for the kernel's default, 8472.
    pub port: Option<u16>,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// Whether the device learns addresses from packets.
    pub learning: bool,
    /// Whether peers on a connected network get plain routes.
    pub direct_routing: bool,
    /// MTU of the underlay in bytes, 50 more than the overlay's; `None` for the external
    /// interface's.
    pub mtu: Option<u16>,
}

impl Default for VxlanConfig {
    fn default() -> Self {
        Self { vni: 1, port: None, gbp: false, learning: false, direct_routing: false, mtu: None }
    }
}

/// The backends there are. Parses from flannel's names in any letter case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendType {
    /// Packets in UDP datagrams, through a TUN device.
    Udp,
    /// The kernel's vxlan tunnel.
    Vxlan,
    /// Plain routes between hosts of one layer-2 network.
    HostGw,
    /// Routes of a Google Compute Engine network.
    Gce,
    /// Routes of an Amazon VPC.
    #[cfg(feature = "aws")]
    AwsVpc,
}

/// A name that is no backend of this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend {0:?}; this flanneld knows {names}", names = BackendType::names())]
pub struct UnknownBackend(String);

/// Without a `Backend` the type is udp; with one that names no type it is an empty name, which
/// nobody knows (`pkg/subnet/config.go`, `parseBackendType`).
pub(super) fn read_backend(
    object: &Object,
    backend_override: Option<BackendType>,
) -> Result<BackendConfig, ConfigError> {
    let backend = match object.raw("Backend").map(|raw| raw.get()) {
        None => return read_settings(backend_override.unwrap_or(BackendType::Udp), None),
        Some("null") => Object::default(),
        Some(text) => Object::parse(text.as_bytes())
            .map_err(|_| ConfigError::BackendShape(WrongType::shorten(text)))?,
    };
    let name = backend.read::<String>("Type", "a text").map_err(|e| e.inside("Backend.Type"))?;
    let named: Result<BackendType, _> = name.clone().unwrap_or_default().parse();
    let kind = match backend_override {
        Some(kind) => kind,
        None => named.clone().map_err(ConfigError::Backend)?,
    };
    // Another backend's settings are not ours: vxlan's Port is not udp's.
    let is_ours = name.is_none() || named == Ok(kind);
    read_settings(kind, is_ours.then_some(&backend))
}

fn read_settings(
    kind: BackendType,
    settings: Option<&Object>,
) -> Result<BackendConfig, ConfigError> {
    let none = Object::default();
    let settings = settings.unwrap_or(&none);
    Ok(match kind {
        BackendType::Udp => {
            let port = read_port(settings, 1)?.unwrap_or(BackendConfig::UDP_PORT);
            BackendConfig::Udp(UdpConfig { port, mtu: read_mtu(settings)? })
        }
        BackendType::Vxlan => BackendConfig::Vxlan(VxlanConfig {
            vni: read_vni(settings)?,
            port: read_port(settings, 0)?.filter(|port| *port != 0),
            gbp: read_bool(settings, "GBP", "Backend.GBP")?,
            learning: read_bool(settings, "Learning", "Backend.Learning")?,
            direct_routing: read_bool(settings, "DirectRouting", "Backend.DirectRouting")?,
            mtu: read_mtu(settings)?,
        }),
        BackendType::HostGw => BackendConfig::HostGw,
        BackendType::Gce => BackendConfig::Gce,
        #[cfg(feature = "aws")]
        BackendType::AwsVpc => {
            BackendConfig::AwsVpc(AwsVpcConfig { route_tables: read_route_tables(settings)? })
        }
    })
}

/// One table as a text, or several as a list, as stock since 0.8.
#[cfg(feature = "aws")]
fn read_route_tables(backend: &Object) -> Result<Vec<String>, ConfigError> {
    const NAME: &str = "Backend.RouteTableID";
    const EXPECTED: &str = "a text or a list of texts";
    let Some(raw) = backend.raw("RouteTableID").map(|raw| raw.get()) else {
        return Ok(Vec::new());
    };
    let wrong = || ConfigError::Type(WrongType::new(NAME, raw, EXPECTED));
    let one = || serde_json::from_str::<Option<String>>(raw).map(Vec::from_iter);
    let tables: Vec<String> = serde_json::from_str(raw).or_else(|_| one()).map_err(|_| wrong())?;
    let is_list = |table: &&String| table.contains(|c: char| c == ',' || c.is_whitespace());
    match tables.iter().any(|table| table.trim().is_empty()) {
        true => Err(wrong()),
        false => match tables.iter().find(is_list) {
            Some(several) => Err(ConfigError::RouteTable(several.clone())),
            None => Ok(tables),
        },
    }
}

fn read_bool(
    backend: &Object,
    name: &'static str,
    full_name: &'static str,
) -> Result<bool, ConfigError> {
    let value = backend.read(name, BOOL).map_err(|error| error.inside(full_name))?;
    Ok(value.unwrap_or(false))
}

fn read_vni(backend: &Object) -> Result<u32, ConfigError> {
    /// RFC 7348, section 5: 24 bits.
    const MAX_VNI: i64 = 0xff_ffff;
    /// `flannel.10000000` has 16 bytes, and the kernel takes 15 (`IFNAMSIZ` less the zero).
    const FIRST_LONG_VNI: i64 = 10_000_000;
    let vni = backend.read::<i64>("VNI", "a whole number");
    match vni.map_err(|error| error.inside("Backend.VNI"))? {
        None => Ok(VxlanConfig::default().vni),
        Some(vni @ FIRST_LONG_VNI..=MAX_VNI) => Err(ConfigError::LongVni(vni)),
        Some(vni @ 0..=MAX_VNI) => u32::try_from(vni).map_err(|_| ConfigError::Vni(vni)),
        Some(vni) => Err(ConfigError::Vni(vni)),
    }
}

fn read_port(backend: &Object, min: u16) -> Result<Option<u16>, ConfigError> {
    let port = backend.read::<i64>("Port", "a whole number");
    let Some(port) = port.map_err(|error| error.inside("Backend.Port"))? else {
        return Ok(None);
    };
    match u16::try_from(port) {
        Ok(port) if port >= min => Ok(Some(port)),
        _ => Err(ConfigError::Port(port, min)),
    }
}

/// Stock's udp backend knows no `MTU`; the key is that of its vxlan backend, where 0 is the default
/// too.
fn read_mtu(backend: &Object) -> Result<Option<u16>, ConfigError> {
    let mtu = backend.read::<i64>("MTU", "a whole number");
    match mtu.map_err(|error| error.inside("Backend.MTU"))? {
        None | Some(0) => Ok(None),
        Some(mtu) => match u16::try_from(mtu) {
            Ok(mtu) if (MIN_OVERLAY_MTU..=MAX_OVERLAY_MTU).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(ConfigError::Mtu(mtu)),
        },
    }
}

impl BackendConfig {
    /// Default of `Backend.Port`: `defaultPort` in flannel's `pkg/backend/udp`.
    const UDP_PORT: u16 = 8285;

    /// Its settings by key, as text.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let or_not_set =
            |value: Option<u16>| value.map_or("not set".to_owned(), |it| it.to_string());
        match self.clone() {
            Self::Udp(UdpConfig { port, mtu }) => {
                vec![("Backend.Port", port.to_string()), ("Backend.MTU", or_not_set(mtu))]
            }
            Self::Vxlan(VxlanConfig { vni, port, gbp, learning, direct_routing, mtu }) => vec![
                ("Backend.VNI", vni.to_string()),
                ("Backend.Port", or_not_set(port)),
                ("Backend.GBP", gbp.to_string()),
                ("Backend.Learning", learning.to_string()),
                ("Backend.DirectRouting", direct_routing.to_string()),
                ("Backend.MTU", or_not_set(mtu)),
            ],
            Self::HostGw | Self::Gce => Vec::new(),
            #[cfg(feature = "aws")]
            Self::AwsVpc(AwsVpcConfig { route_tables }) => {
                let tables = match route_tables.is_empty() {
                    true => "not set".to_owned(),
                    false => route_tables.join(", "),
                };
                vec![("Backend.RouteTableID", tables)]
            }
        }
    }

    /// Which backend this is.
    pub const fn backend_type(&self) -> BackendType {
        match self {
            Self::Udp(_) => BackendType::Udp,
            Self::Vxlan(_) => BackendType::Vxlan,
            Self::HostGw => BackendType::HostGw,
            Self::Gce => BackendType::Gce,
            #[cfg(feature = "aws")]
            Self::AwsVpc(_) => BackendType::AwsVpc,
        }
    }
}

impl BackendType {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Udp, "udp"),
        (Self::Vxlan, "vxlan"),
        (Self::HostGw, "host-gw"),
        (Self::Gce, "gce"),
        #[cfg(feature = "aws")]
        (Self::AwsVpc, "aws-vpc"),
    ];

    /// All names, as a list in a sentence.
    fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
        let (last, others) = names.split_last().unwrap_or((&"none", &[]));
        format!("{} and {last}", others.join(", "))
    }
}

impl FromStr for BackendType {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        let known = Self::ALL.iter().find(|(_, known)| name.eq_ignore_ascii_case(known));
        known.map(|(kind, _)| *kind).ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

impl fmt::Display for BackendType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(kind, _)| kind == self);
        f.write_str(known.map_or("", |(_, name)| name))
    }
}
