//! [`Subnet`]: an IPv4 range in canonical form.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnetwork::Ipv4Network;

/// An IPv4 range whose host bits are zero, such as the slice of the overlay that one node leases.
///
/// Prints and parses as `10.5.52.0/24`. Orders by address, then by prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    addr: Ipv4Addr,
    prefix_len: u8,
}

/// Why a text or a pair of numbers is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// The prefix length is above 32 bits.
    #[error("prefix length {0} is above 32")]
    PrefixLen(u8),
    /// The text is not `a.b.c.d/len`.
    #[error("{0:?} is not an IPv4 range such as 10.5.0.0/16")]
    Text(String),
}

impl Subnet {
    /// All addresses.
    pub const DEFAULT: Self = Self { addr: Ipv4Addr::UNSPECIFIED, prefix_len: 0 };

    /// All multicast groups: RFC 5771.
    pub const MULTICAST: Self = Self { addr: Ipv4Addr::new(224, 0, 0, 0), prefix_len: 4 };

    /// The subnet of `prefix_len` bits that holds `addr`; host bits are cleared.
    ///
    /// # Errors
    /// [`SubnetError::PrefixLen`] above 32 bits.
    pub fn new(addr: Ipv4Addr, prefix_len: u8) -> Result<Self, SubnetError> {
        if prefix_len > 32 {
            return Err(SubnetError::PrefixLen(prefix_len));
        }
        let addr = Ipv4Addr::from_bits(addr.to_bits() & mask(prefix_len));
        Ok(Self { addr, prefix_len })
    }

    /// The network address: the first of the range.
    pub const fn addr(self) -> Ipv4Addr {
        self.addr
    }

    /// The prefix length in bits, 0 to 32.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The last address of the range.
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addr.to_bits() | !mask(self.prefix_len))
    }

    /// Whether `addr` lies in the range.
    pub const fn contains(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & mask(self.prefix_len) == self.addr.to_bits()
    }

    /// Whether the two ranges share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }
}

/// The netmask of a prefix length of at most 32 bits.
const fn mask(prefix_len: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix_len as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let bad = || SubnetError::Text(text.to_owned());
        if !text.contains('/') {
            return Err(bad()); // ipnetwork reads a bare address as a /32
        }
        let network: Ipv4Network = text.parse().map_err(|_| bad())?;
        Ok(network.into())
    }
}

impl From<Ipv4Network> for Subnet {
    fn from(network: Ipv4Network) -> Self {
        Self { addr: network.network(), prefix_len: network.prefix() }
    }
}

impl From<Subnet> for Ipv4Network {
    #[expect(clippy::expect_used, reason = "a Subnet's prefix length is at most 32")]
    fn from(subnet: Subnet) -> Self {
        Self::new(subnet.addr, subnet.prefix_len).expect("prefix length is at most 32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(subnet("10.3.7.9/16").to_string(), "10.3.0.0/16");
        assert_eq!(subnet("10.3.7.9/0").to_string(), "0.0.0.0/0");
    }

    #[test]
    fn text_without_a_length_is_no_subnet() {
        for text in ["10.3.0.0", "10.3.0.0/33", "10.3.0/16", "fc00::/48", "", "/", "10.3.0.0/"] {
            assert!(text.parse::<Subnet>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.5.0.0/16")));
        assert!(subnet("10.5.0.0/16").overlaps(subnet("10.0.0.0/8")));
        assert!(!subnet("10.5.0.0/24").overlaps(subnet("10.5.1.0/24")));
        assert!(subnet("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn last_address_has_all_host_bits_set() {
        assert_eq!(subnet("10.5.4.0/22").last(), Ipv4Addr::new(10, 5, 7, 255));
        assert_eq!(subnet("10.5.4.1/32").last(), Ipv4Addr::new(10, 5, 4, 1));
    }
}
