//! [`NetworkConfig`]: the operator's JSON, read and checked.
//!
//! The rules are those of flannel's `pkg/subnet/config.go`. Where stock would go on with a
//! configuration that cannot work, this says what is wrong with it.

use super::backend::{BackendConfig, BackendType, UnknownBackend, read_backend};

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::control::util::json_object::{Object, WrongType};
use crate::dataplane::pmtu::MIN_IPV4_MTU;
use crate::routes::{Prefix, PrefixError};

/// The overlay: its range, how it is cut into subnets, and how packets travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The whole overlay's range.
    pub network: Ipv4Network,
    /// Prefix length of every node's subnet, in bits.
    pub subnet_len: u8,
    /// First subnet that may be leased.
    pub subnet_min: Ipv4Addr,
    /// Last subnet that may be leased.
    pub subnet_max: Ipv4Addr,
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
    /// A key that must be there is not.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// The network is not a range.
    #[error("Network: {0}")]
    Network(PrefixError),
    /// The network is everything there is.
    #[error("Network: 0.0.0.0/0 is every address there is; an overlay needs a range of its own")]
    WholeInternet,
    /// The network has addresses that no host can have.
    #[error("Network: {network} has addresses of {}, which {what}", taken)]
    Unusable {
        /// What was asked for.
        network: Ipv4Network,
        /// The range that is no network's to have.
        taken: Ipv4Network,
        /// What it is for.
        what: &'static str,
    },
    /// Too few addresses for four subnets.
    #[error("Network: {0} is longer than /28, too small to be cut into subnets")]
    TooSmall(Ipv4Network),
    /// Subnets of fewer than four addresses.
    #[error("SubnetLen: {0} is longer than 30")]
    SubnetTooLong(u64),
    /// Fewer than four subnets.
    #[error(
        "SubnetLen: {len} leaves fewer than four subnets in {network}; take {} or more",
        .network.prefix() + 2
    )]
    TooFewSubnets {
        /// What was asked for.
        len: u64,
        /// What it was asked for.
        network: Ipv4Network,
    },
    /// A limit outside the network.
    #[error("{key}: {addr} is outside {network}")]
    OutsideNetwork {
        /// `SubnetMin` or `SubnetMax`.
        key: &'static str,
        /// Its value.
        addr: Ipv4Addr,
        /// Where it should lie.
        network: Ipv4Network,
    },
    /// A limit that is no subnet's first address.
    #[error("{key}: {addr} is not on a /{len} boundary")]
    Unaligned {
        /// `SubnetMin` or `SubnetMax`.
        key: &'static str,
        /// Its value.
        addr: Ipv4Addr,
        /// The subnets' prefix length.
        len: u8,
    },
    /// Limits that leave nothing between them.
    #[error("SubnetMin: {min} is after SubnetMax {max}, so no subnet is left to lease")]
    NothingLeft {
        /// `SubnetMin`, given or default.
        min: Ipv4Addr,
        /// `SubnetMax`, given or default.
        max: Ipv4Addr,
    },
    /// A network without IPv4, or with IPv6.
    #[error("{0} is not supported: this flanneld carries IPv4 only")]
    AddressFamily(&'static str),
    /// A backend this program does not have.
    #[error("Backend.Type: {0}")]
    Backend(UnknownBackend),
    /// `Backend` is no object.
    #[error("Backend: {0} is not a JSON object")]
    BackendShape(String),
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
    require_ipv4(&object)?;
    let network = read_network(&object)?;
    let subnet_len = read_subnet_len(&object, network)?;
    let (subnet_min, subnet_max) = read_limits(&object, network, subnet_len)?;
    let backend = read_backend(&object, backend_override)?;
    let nftables = object.read("EnableNFTables", BOOL)?.unwrap_or(false);
    Ok(NetworkConfig { network, subnet_len, subnet_min, subnet_max, nftables, backend })
}

/// What a boolean is to be, as an error says it.
pub(crate) const BOOL: &str = "true or false";

fn require_ipv4(object: &Object) -> Result<(), ConfigError> {
    if object.read("EnableIPv4", BOOL)? == Some(false) {
        return Err(ConfigError::AddressFamily("EnableIPv4: false"));
    }
    if object.read("EnableIPv6", BOOL)? == Some(true) {
        return Err(ConfigError::AddressFamily("EnableIPv6: true"));
    }
    Ok(())
}

fn read_network(object: &Object) -> Result<Ipv4Network, ConfigError> {
    let text = object.text("Network", "an IPv4 range in quotes, such as \"10.5.0.0/16\"")?;
    let text = text.ok_or(ConfigError::Missing("Network"))?;
    let network = Ipv4Network::parse(&text).map_err(ConfigError::Network)?;
    if network.prefix() == 0 {
        return Err(ConfigError::WholeInternet);
    }
    for (octet, len, what) in RESERVED {
        if let Ok(taken) = Ipv4Network::containing(Ipv4Addr::new(octet, 0, 0, 0), len)
            && network.overlaps(taken)
        {
            return Err(ConfigError::Unusable { network, taken, what });
        }
    }
    match network.prefix() {
        ..=28 => Ok(network),
        _ => Err(ConfigError::TooSmall(network)),
    }
}

/// First octet and length of the ranges that have no host on a network of several: RFC 6890,
/// section 2.2.2, and RFC 5771.
const RESERVED: [(u8, u8, &str); 4] = [
    (0, 8, "no host can have"),
    (127, 8, "never leave a host"),
    (224, 4, "are multicast groups"),
    (240, 4, "are reserved"),
];

/// Given, the length must leave four subnets of four addresses; not given (or 0), it is 24, or
/// whatever leaves four subnets in a network smaller than a /22.
fn read_subnet_len(object: &Object, network: Ipv4Network) -> Result<u8, ConfigError> {
    let shortest = network.prefix() + 2;
    let len = match object.read::<u64>("SubnetLen", "a whole number")? {
        None | Some(0) => return Ok(shortest.max(24)),
        Some(len) => len,
    };
    match u8::try_from(len) {
        Ok(len) if (shortest..=30).contains(&len) => Ok(len),
        Ok(len) if len < shortest => {
            Err(ConfigError::TooFewSubnets { len: u64::from(len), network })
        }
        _ => Err(ConfigError::SubnetTooLong(len)),
    }
}

fn read_limits(
    object: &Object,
    network: Ipv4Network,
    len: u8,
) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    let size = 1_u32 << (32 - u32::from(len));
    let second = Ipv4Addr::from_bits(network.network().to_bits() + size);
    let last = Ipv4Addr::from_bits(network.broadcast().to_bits() & !(size - 1));
    let min = read_limit(object, "SubnetMin", network, len)?.unwrap_or(second);
    let max = read_limit(object, "SubnetMax", network, len)?.unwrap_or(last);
    if min > max {
        return Err(ConfigError::NothingLeft { min, max });
    }
    Ok((min, max))
}

fn read_limit(
    object: &Object,
    key: &'static str,
    network: Ipv4Network,
    len: u8,
) -> Result<Option<Ipv4Addr>, ConfigError> {
    const IP: &str = "an IPv4 address in quotes";
    let Some(text) = object.text(key, IP)? else {
        return Ok(None);
    };
    let addr: Ipv4Addr = text.parse().map_err(|_| WrongType::new(key, &text, IP))?;
    if addr.is_unspecified() {
        return Ok(None);
    }
    if !network.contains(addr) {
        return Err(ConfigError::OutsideNetwork { key, addr, network });
    }
    if Ipv4Network::containing(addr, len).is_ok_and(|subnet| subnet.network() != addr) {
        return Err(ConfigError::Unaligned { key, addr, len });
    }
    Ok(Some(addr))
}

impl NetworkConfig {
    /// Whether a node may hold `subnet`: of the right length, and within the limits.
    pub fn accepts(&self, subnet: Ipv4Network) -> bool {
        subnet.prefix() == self.subnet_len
            && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }
}

#[cfg(test)]
mod tests;
