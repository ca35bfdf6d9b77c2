//! [`SubnetRange`]: one address family of the network config.
//!
//! The rules are the same for both families; [`Keys`] has the numbers that differ.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ConfigError;
use crate::control::util::json_object::{Object, WrongType};
use crate::routes::Prefix;

/// A range, and how it is cut into subnets of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetRange<P: Prefix> {
    /// The whole overlay's range.
    pub network: P,
    /// Prefix length of every node's subnet, in bits.
    pub subnet_len: u8,
    /// First subnet that may be leased.
    pub subnet_min: P::Addr,
    /// Last subnet that may be leased.
    pub subnet_max: P::Addr,
}

/// What the config calls the settings of one family, and their limits.
pub(super) struct Keys<A: 'static> {
    network: &'static str,
    subnet_len: &'static str,
    subnet_min: &'static str,
    subnet_max: &'static str,
    network_is: &'static str,
    addr_is: &'static str,
    /// The subnets' length where the network leaves room for four of them.
    default_subnet_len: u8,
    /// Ranges that have no host on a network of several, and why.
    reserved: &'static [(A, u8, &'static str)],
}

/// The reserved ranges: RFC 6890, section 2.2.2, and RFC 5771.
pub(super) const V4: Keys<Ipv4Addr> = Keys {
    network: "Network",
    subnet_len: "SubnetLen",
    subnet_min: "SubnetMin",
    subnet_max: "SubnetMax",
    network_is: "an IPv4 range in quotes, such as \"10.5.0.0/16\"",
    addr_is: "an IPv4 address in quotes",
    default_subnet_len: 24,
    reserved: &[
        (Ipv4Addr::new(0, 0, 0, 0), 8, "no host can have"),
        (Ipv4Addr::new(127, 0, 0, 0), 8, "never leave a host"),
        (Ipv4Addr::new(224, 0, 0, 0), 4, "are multicast groups"),
        (Ipv4Addr::new(240, 0, 0, 0), 4, "are reserved"),
    ],
};

/// The reserved ranges: RFC 4291, section 2.4.
pub(super) const V6: Keys<Ipv6Addr> = Keys {
    network: "IPv6Network",
    subnet_len: "IPv6SubnetLen",
    subnet_min: "IPv6SubnetMin",
    subnet_max: "IPv6SubnetMax",
    network_is: "an IPv6 range in quotes, such as \"fd00:5::/48\"",
    addr_is: "an IPv6 address in quotes",
    default_subnet_len: 64,
    reserved: &[
        (Ipv6Addr::UNSPECIFIED, 8, "are reserved"),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "never leave a link"),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "are multicast groups"),
    ],
};

impl<P: Prefix> SubnetRange<P> {
    /// Reads the settings of one family.
    pub(super) fn read(object: &Object, keys: &Keys<P::Addr>) -> Result<Self, ConfigError> {
        let network: P = read_network(object, keys)?;
        let subnet_len = read_subnet_len(object, keys, network)?;
        let (subnet_min, subnet_max) = read_limits(object, keys, network, subnet_len)?;
        Ok(Self { network, subnet_len, subnet_min, subnet_max })
    }

    /// Whether a node may hold `subnet`: of the right length, and within the limits.
    pub fn accepts(&self, subnet: P) -> bool {
        let addr = P::addr(subnet.bounds().0);
        subnet.prefix_len() == self.subnet_len
            && (self.subnet_min..=self.subnet_max).contains(&addr)
    }

    /// How many addresses a subnet has.
    pub(crate) fn subnet_size(&self) -> u128 {
        size::<P>(self.subnet_len)
    }
}

impl<P: Prefix> fmt::Display for SubnetRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, subnet_len, subnet_min, subnet_max } = self;
        write!(f, "{network}, as /{subnet_len}s, {subnet_min} to {subnet_max}")
    }
}

/// How many addresses a prefix of `len` bits has; `len` is not 0.
fn size<P: Prefix>(len: u8) -> u128 {
    1 << (P::BITS - len)
}

fn read_network<P: Prefix>(object: &Object, keys: &Keys<P::Addr>) -> Result<P, ConfigError> {
    let key = keys.network;
    let text = object.text(key, keys.network_is)?.ok_or(ConfigError::Missing(key))?;
    let network = P::parse(&text).map_err(|error| ConfigError::Network(key, error))?;
    if network.prefix_len() == 0 {
        return Err(ConfigError::EveryAddress(key, network.into()));
    }
    for &(addr, len, what) in keys.reserved {
        if let Ok(taken) = P::containing(addr, len)
            && network.overlaps(taken)
        {
            let (network, taken) = (network.into(), taken.into());
            return Err(ConfigError::Unusable { key, network, taken, what });
        }
    }
    let max = P::BITS - 4; // four subnets of four addresses
    if network.prefix_len() > max {
        return Err(ConfigError::TooSmall { key, network: network.into(), max });
    }
    Ok(network)
}

/// Given, the length must leave four subnets of four addresses; not given (or 0), it is the
/// default, or whatever leaves four subnets in a network too small for that.
fn read_subnet_len<P: Prefix>(
    object: &Object,
    keys: &Keys<P::Addr>,
    network: P,
) -> Result<u8, ConfigError> {
    let key = keys.subnet_len;
    let (shortest, max) = (network.prefix_len() + 2, P::BITS - 2);
    let len = match object.read::<u64>(key, "a whole number")? {
        None | Some(0) => return Ok(shortest.max(keys.default_subnet_len)),
        Some(len) => len,
    };
    match u8::try_from(len) {
        Ok(len) if (shortest..=max).contains(&len) => Ok(len),
        Ok(short) if short < shortest => {
            Err(ConfigError::TooFewSubnets { key, len, network: network.into() })
        }
        _ => Err(ConfigError::SubnetTooLong { key, len, max }),
    }
}

fn read_limits<P: Prefix>(
    object: &Object,
    keys: &Keys<P::Addr>,
    network: P,
    len: u8,
) -> Result<(P::Addr, P::Addr), ConfigError> {
    let (first, last) = network.bounds();
    let size = size::<P>(len);
    let limit = |key| read_limit(object, key, keys.addr_is, network, len);
    let min = limit(keys.subnet_min)?.unwrap_or_else(|| P::addr(first + size));
    let max = limit(keys.subnet_max)?.unwrap_or_else(|| P::addr(last - (size - 1)));
    if min > max {
        let (min_key, max_key) = (keys.subnet_min, keys.subnet_max);
        let (min, max) = (min.into(), max.into());
        return Err(ConfigError::NothingLeft { min_key, min, max_key, max });
    }
    Ok((min, max))
}

fn read_limit<P: Prefix>(
    object: &Object,
    key: &'static str,
    expected: &'static str,
    network: P,
    len: u8,
) -> Result<Option<P::Addr>, ConfigError> {
    let Some(text) = object.text(key, expected)? else {
        return Ok(None);
    };
    let addr: P::Addr = text.parse().map_err(|_| WrongType::new(key, &text, expected))?;
    let number = P::number(addr);
    if number == 0 {
        return Ok(None); // 0.0.0.0 and :: count as not set
    }
    let (first, last) = network.bounds();
    if !(first..=last).contains(&number) {
        return Err(ConfigError::OutsideNetwork {
            key,
            addr: addr.into(),
            network: network.into(),
        });
    }
    if !number.is_multiple_of(size::<P>(len)) {
        return Err(ConfigError::Unaligned { key, addr: addr.into(), len });
    }
    Ok(Some(addr))
}
