//! [`Prefix`]: what `ipnetwork`'s two prefix types lack.
//!
//! [`Ipv4Network`] and [`Ipv6Network`] keep the host bits that they are given, so that `10.5.0.1/16`
//! and `10.5.0.0/16` are two values. Every prefix in this program is a network address: it comes
//! from [`Prefix::containing`] or [`Prefix::parse`], which clear the host bits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// A range of addresses of one family, such as the slice of the overlay that one node leases.
pub trait Prefix: Copy + Ord + fmt::Display + Into<IpNetwork> {
    /// An address of the family.
    type Addr: Copy + Ord + fmt::Display + FromStr + Into<IpAddr>;

    /// The bits of an address.
    const BITS: u8;

    /// The prefix of `len` bits that holds `addr`; host bits are cleared.
    ///
    /// # Errors
    /// [`PrefixError::Len`] with more bits than an address has.
    fn containing(addr: Self::Addr, len: u8) -> Result<Self, PrefixError>;

    /// Reads `10.5.52.0/24` or `fd00:5::/64`; host bits are cleared. The length must be there, and a
    /// netmask is not one.
    ///
    /// # Errors
    /// [`PrefixError::Text`].
    fn parse(text: &str) -> Result<Self, PrefixError>;

    /// The prefix length in bits.
    fn prefix_len(self) -> u8;

    /// The network address and the last address, as numbers.
    fn bounds(self) -> (u128, u128);

    /// The address of this number; of a number that has none, the last address.
    fn addr(number: u128) -> Self::Addr;

    /// The number of this address.
    fn number(addr: Self::Addr) -> u128;

    /// Whether the two ranges share an address.
    fn overlaps(self, other: Self) -> bool {
        let ((first, last), (other_first, other_last)) = (self.bounds(), other.bounds());
        first <= other_last && other_first <= last
    }
}

/// Why a text or a pair of numbers is no [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length has more bits than an address.
    #[error("prefix length {len} is above {max}")]
    Len {
        /// What was asked for.
        len: u8,
        /// The bits of an address.
        max: u8,
    },
    /// The text is not an address and a length.
    #[error("{text:?} is not {example}")]
    Text {
        /// What was found.
        text: String,
        /// What it should look like.
        example: &'static str,
    },
}

/// `$network`: an address of `$addr` and a length of at most `$max` bits.
macro_rules! impl_prefix {
    ($network:ty, $addr:ty, $number:ty, $max:literal, $example:literal) => {
        impl Prefix for $network {
            type Addr = $addr;

            const BITS: u8 = $max;

            fn containing(addr: $addr, len: u8) -> Result<Self, PrefixError> {
                let with_host_bits = Self::new_checked(addr, len);
                with_host_bits
                    .and_then(|it| Self::new_checked(it.network(), len))
                    .ok_or(PrefixError::Len { len, max: $max })
            }

            fn parse(text: &str) -> Result<Self, PrefixError> {
                let bad = || PrefixError::Text { text: text.to_owned(), example: $example };
                // The library would read a bare address as one of full length.
                let (addr, len) = text.split_once('/').ok_or_else(bad)?;
                let (Ok(addr), Ok(len)) = (addr.parse(), len.parse()) else { return Err(bad()) };
                Self::containing(addr, len).map_err(|_| bad())
            }

            fn prefix_len(self) -> u8 {
                self.prefix()
            }

            fn bounds(self) -> (u128, u128) {
                (Self::number(self.network()), Self::number(self.broadcast()))
            }

            fn addr(number: u128) -> $addr {
                <$addr>::from_bits(<$number>::try_from(number).unwrap_or(<$number>::MAX))
            }

            fn number(addr: $addr) -> u128 {
                addr.to_bits().into()
            }
        }
    };
}

impl_prefix!(Ipv4Network, Ipv4Addr, u32, 32, "an IPv4 range such as 10.5.0.0/16");
impl_prefix!(Ipv6Network, Ipv6Addr, u128, 128, "an IPv6 range such as fd00:5::/48");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        for (text, printed) in [("10.3.7.9/16", "10.3.0.0/16"), ("10.3.7.9/0", "0.0.0.0/0")] {
            assert_eq!(Ipv4Network::parse(text).unwrap().to_string(), printed);
        }
        for (text, printed) in [("FD00:5::9:1/48", "fd00:5::/48"), ("fd00::1/0", "::/0")] {
            assert_eq!(Ipv6Network::parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn text_without_a_length_of_its_family_is_no_prefix() {
        for text in [
            "10.3.0.0",
            "10.3.0.0/33",
            "10.3.0/16",
            "fc00::/48",
            "",
            "/",
            "10.3.0.0/",
            "10.0.0.0/8/8",
        ] {
            let error = Ipv4Network::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} is not an IPv4 range such as 10.5.0.0/16"));
        }
        for text in ["fc00::", "fc00::/129", "10.3.0.0/16", "fc00::/", "fc00::/ffff::"] {
            let error = Ipv6Network::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} is not an IPv6 range such as fd00:5::/48"));
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let overlap = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| Ipv6Network::parse(text).unwrap());
            (Prefix::overlaps(one, other), Prefix::overlaps(other, one))
        };
        assert_eq!(overlap("fd00::/16", "fd00:5::/64"), (true, true));
        assert_eq!(overlap("fd00:5::/64", "fd00:5::/64"), (true, true));
        assert_eq!(overlap("fd00:5::/64", "fd00:5:0:1::/64"), (false, false));
        assert_eq!(overlap("::/0", "ffff::/16"), (true, true));
    }

    #[test]
    fn bounds_are_the_first_and_the_last_address() {
        let (first, last) = Ipv4Network::parse("10.5.4.0/22").unwrap().bounds();
        let bounds = [first, last].map(|number| Ipv4Network::addr(number).to_string());
        assert_eq!(bounds, ["10.5.4.0", "10.5.7.255"]);
        assert_eq!(Ipv4Network::addr(u128::MAX), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn length_has_as_many_bits_as_an_address_at_most() {
        let v4 = |len| Ipv4Network::containing(Ipv4Addr::LOCALHOST, len);
        assert_eq!(v4(32).unwrap().to_string(), "127.0.0.1/32");
        assert_eq!(v4(33).unwrap_err().to_string(), "prefix length 33 is above 32");
        let v6 = |len| Ipv6Network::containing(Ipv6Addr::LOCALHOST, len);
        assert_eq!(v6(128).unwrap().to_string(), "::1/128");
        assert_eq!(v6(129).unwrap_err().to_string(), "prefix length 129 is above 128");
    }
}
