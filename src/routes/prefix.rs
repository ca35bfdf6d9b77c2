//! [`Prefix`]: what `ipnetwork`'s two prefix types lack.
//!
//! [`Ipv4Network`] and [`Ipv6Network`] keep the host bits that they are given, so that `10.5.0.1/16`
//! and `10.5.0.0/16` are two values. Every prefix in this program is a network address: it comes
//! from [`Prefix::containing`] or [`Prefix::parse`], which clear the host bits.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

/// A range of addresses of one family, such as the slice of the overlay that one node leases.
pub trait Prefix: Copy + Ord + fmt::Display {
    /// An address of the family.
    type Addr: Copy + Ord + fmt::Display;

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
    ($network:ty, $addr:ty, $max:literal, $example:literal) => {
        impl Prefix for $network {
            type Addr = $addr;

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
        }
    };
}

impl_prefix!(Ipv4Network, Ipv4Addr, 32, "an IPv4 range such as 10.5.0.0/16");
impl_prefix!(Ipv6Network, Ipv6Addr, 128, "an IPv6 range such as fd00:5::/48");

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
    fn length_has_as_many_bits_as_an_address_at_most() {
        let v4 = |len| Ipv4Network::containing(Ipv4Addr::LOCALHOST, len);
        assert_eq!(v4(32).unwrap().to_string(), "127.0.0.1/32");
        assert_eq!(v4(33).unwrap_err().to_string(), "prefix length 33 is above 32");
        let v6 = |len| Ipv6Network::containing(Ipv6Addr::LOCALHOST, len);
        assert_eq!(v6(128).unwrap().to_string(), "::1/128");
        assert_eq!(v6(129).unwrap_err().to_string(), "prefix length 129 is above 128");
    }
}
