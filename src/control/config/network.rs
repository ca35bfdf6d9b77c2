//! [`NetworkConfig`]: the operator's JSON, read and checked.
//!
//! The rules are those of flannel's `pkg/subnet/config.go`. A configuration that cannot work
//! is an error here, also if stock accepts it.

mod difference;
mod subnet_range;
mod subnets;

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::backend::{BackendConfig, BackendType, UnknownBackend, read_backend};
use crate::control::util::json_object::{Object, WrongType};
use crate::dataplane::pmtu::MIN_IPV4_MTU;
use crate::routes::PrefixError;

pub use self::subnet_range::SubnetRange;
pub use self::subnets::Subnets;

/// The overlay: its ranges, how they are cut into subnets, and how packets travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// IPv4: every node leases a subnet of it.
    pub v4: SubnetRange<Ipv4Network>,
    /// IPv6, if `EnableIPv6` is set.
    pub v6: Option<SubnetRange<Ipv6Network>>,
    /// Whether nodes keep their rules with nftables, not iptables.
    pub nftables: bool,
    /// How packets travel between nodes.
    pub backend: BackendConfig,
}

/// What is wrong with a network config. One line that begins with the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is no JSON object; the reason carries line and column.
    #[error("not a network config: {0}")]
    Json(String),
    /// A value has the wrong type.
    #[error(transparent)]
    Type(#[from] WrongType),
    /// A required key is missing.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// The network is not a range.
    #[error("{0}: {1}")]
    Network(&'static str, PrefixError),
    /// The network is the whole address space.
    #[error("{0}: {1} is every address there is; an overlay needs a range of its own")]
    EveryAddress(&'static str, IpNetwork),
    /// The network has addresses that no host can have.
    #[error("{key}: {network} has addresses of {taken}, which {what}")]
    Unusable {
        /// `Network` or `IPv6Network`.
        key: &'static str,
        /// What was asked for.
        network: IpNetwork,
        /// The reserved range.
        taken: IpNetwork,
        /// What it is for.
        what: &'static str,
    },
    /// Too few addresses for four subnets.
    #[error("{key}: {network} is longer than /{max}, too small to be cut into subnets")]
    TooSmall {
        /// `Network` or `IPv6Network`.
        key: &'static str,
        /// What was asked for.
        network: IpNetwork,
        /// The longest prefix that is taken.
        max: u8,
    },
    /// Subnets of fewer than four addresses.
    #[error("{key}: {len} is longer than {max}")]
    SubnetTooLong {
        /// `SubnetLen` or `IPv6SubnetLen`.
        key: &'static str,
        /// What was asked for.
        len: u64,
        /// The longest prefix that is taken.
        max: u8,
    },
    /// Fewer than four subnets.
    #[error(
        "{key}: {len} leaves fewer than four subnets in {network}; take {} or more",
        .network.prefix() + 2
    )]
    TooFewSubnets {
        /// `SubnetLen` or `IPv6SubnetLen`.
        key: &'static str,
        /// What was asked for.
        len: u64,
        /// What it was asked for.
        network: IpNetwork,
    },
    /// A limit outside the network.
    #[error("{key}: {addr} is outside {network}")]
    OutsideNetwork {
        /// `SubnetMin`, `SubnetMax`, or the same of IPv6.
        key: &'static str,
        /// Its value.
        addr: IpAddr,
        /// Where it should lie.
        network: IpNetwork,
    },
    /// A limit that is no subnet's first address.
    #[error("{key}: {addr} is not on a /{len} boundary")]
    Unaligned {
        /// `SubnetMin`, `SubnetMax`, or the same of IPv6.
        key: &'static str,
        /// Its value.
        addr: IpAddr,
        /// The subnets' prefix length.
        len: u8,
    },
    /// Limits that leave nothing between them.
    #[error("{min_key}: {min} is after {max_key} {max}, so no subnet is left to lease")]
    NothingLeft {
        /// `SubnetMin` or `IPv6SubnetMin`.
        min_key: &'static str,
        /// Its value, given or default.
        min: IpAddr,
        /// `SubnetMax` or `IPv6SubnetMax`.
        max_key: &'static str,
        /// Its value, given or default.
        max: IpAddr,
    },
    /// A network without IPv4.
    #[error("EnableIPv4: false is not supported: this flanneld carries IPv4 only")]
    WithoutIpv4,
    /// A backend this program does not have.
    #[error(
        "Backend.Type: {0}. All nodes of a network need the same one: write another Type for all of \
         them, or run stock flanneld here"
    )]
    Backend(UnknownBackend),
    /// `Backend` is no object.
    #[error("Backend: {0} is not a JSON object")]
    BackendShape(String),
    /// Several route tables in one text, perhaps.
    #[error(
        "Backend.RouteTableID: {0:?} is no route table; write several as [\"rtb-…\", \"rtb-…\"]"
    )]
    RouteTable(String),
    /// A port that is none.
    #[error("Backend.Port: {0} is outside {1}…65535")]
    Port(i64, u16),
    /// A number that no vxlan header holds.
    #[error("Backend.VNI: {0} is outside 0…16777215")]
    Vni(i64),
    /// A number with which the device's name is too long.
    #[error(
        "Backend.VNI: {0} needs a device flannel.{0}, a name longer than the kernel's 15 bytes: \
         choose 9999999 or less"
    )]
    LongVni(i64),
    /// An overlay MTU that no datagram could carry, or IPv4 could not use.
    #[error("Backend.MTU: {0} is outside {MIN_OVERLAY_MTU}…{MAX_OVERLAY_MTU}")]
    Mtu(i64),
}

/// The least MTU that an overlay may have, in bytes: RFC 791, section 3.2.
pub const MIN_OVERLAY_MTU: u16 = MIN_IPV4_MTU;

/// The greatest, in bytes: the longest UDP payload. The longest IPv4 packet has 65,535 bytes
/// (RFC 791, section 3.1), and the outer headers are among them.
pub const MAX_OVERLAY_MTU: u16 = 65507;

/// Reads a network config; `backend_override` takes the place of its `Backend.Type`.
///
/// # Errors
/// [`ConfigError`]: one line that begins with the key at fault.
pub fn parse(
    text: &str,
    backend_override: Option<BackendType>,
) -> Result<NetworkConfig, ConfigError> {
    let object =
        Object::parse(text.as_bytes()).map_err(|error| ConfigError::Json(error.to_string()))?;
    if object.read("EnableIPv4", BOOL)? == Some(false) {
        return Err(ConfigError::WithoutIpv4);
    }
    let has_v6 = object.read("EnableIPv6", BOOL)?.unwrap_or(false);
    let v4 = SubnetRange::read(&object, &subnet_range::V4)?;
    // Without EnableIPv6 the other keys of IPv6 say nothing, as for stock's allocation.
    let v6 = has_v6.then(|| SubnetRange::read(&object, &subnet_range::V6)).transpose()?;
    let backend = read_backend(&object, backend_override)?;
    let nftables = object.read("EnableNFTables", BOOL)?.unwrap_or(false);
    Ok(NetworkConfig { v4, v6, nftables, backend })
}

/// What a boolean is to be, as an error says it.
pub(crate) const BOOL: &str = "true or false";

impl NetworkConfig {
    /// What a node leases an IPv6 subnet from, if its leases have one.
    ///
    /// No backend carries IPv6 yet. A lease for udp has an IPv6 subnet all the same, as stock's has. A
    /// lease for vxlan or host-gw has none: with one, but without an IPv6 address of its holder, it
    /// would end the event loop of every stock peer.
    pub fn leased_v6(&self) -> Option<&SubnetRange<Ipv6Network>> {
        match self.backend {
            BackendConfig::Udp(_) => self.v6.as_ref(),
            BackendConfig::Vxlan(_) | BackendConfig::HostGw | BackendConfig::Gce => None,
            #[cfg(feature = "aws")]
            BackendConfig::AwsVpc(_) => None,
        }
    }

    /// Whether a node may hold `subnets`: of the families that are leased, and in their ranges.
    pub fn accepts(&self, subnets: Subnets) -> bool {
        let accepts_v6 = match (subnets.v6, self.leased_v6()) {
            (Some(v6), Some(range)) => range.accepts(v6),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.v4.accepts(subnets.v4) && accepts_v6
    }

    /// What the operator should know of a config that is taken.
    pub fn warning(&self) -> Option<String> {
        let v6 = self.v6.as_ref()?;
        let backend = self.backend.backend_type();
        let leased = match self.leased_v6() {
            Some(_) => "leases an IPv6 subnet, but neither sends nor receives IPv6 packets",
            None => "leases no IPv6 subnet",
        };
        Some(format!(
            "EnableIPv6: the {backend} backend of this flanneld carries IPv4 only: this node {leased} \
             (IPv6Network {})",
            v6.network
        ))
    }
}

#[cfg(test)]
mod tests;
