//! [`Mac`]: an Ethernet address.

use std::fmt;
use std::str::FromStr;

/// Six octets, in the order in which they are sent. Prints as `c6:d2:32:6f:8f:44`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as c6:d2:32:6f:8f:44")]
pub struct MacError(String);

impl Mac {
    /// The address of a new device: random, locally administered, unicast, as
    /// `NewHardwareAddr` in flannel's `pkg/mac/mac.go`.
    pub fn random() -> Self {
        let mut octets: [u8; 6] = rand::random();
        octets[0] = octets[0] & 0xfe | 0x02;
        Self(octets)
    }

    /// The address whose octets these are; `None` for another number of octets.
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }

    /// Its octets.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether a device can have it: neither a group address nor all zero
    /// (`is_valid_ether_addr` in `include/linux/etherdevice.h`).
    pub fn is_usable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Accepts what Go's `net.ParseMAC` does: `c6:d2:32:6f:8f:44`, the same with `-`, and
/// `c6d2.326f.8f44`, in any letter case.
impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.chars().take(40).collect());
        let (separator, group_len) = match text.as_bytes().get(2) {
            Some(b':') => (':', 2),
            Some(b'-') => ('-', 2),
            _ => ('.', 4),
        };
        let mut octets = Vec::with_capacity(6);
        for group in text.split(separator) {
            if group.len() != group_len || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            let number = u16::from_str_radix(group, 16).map_err(|_| bad())?.to_be_bytes();
            octets.extend_from_slice(&number[2 - group_len / 2..]);
        }
        Self::from_slice(&octets).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_go_is_read_and_one_is_written() {
        for text in ["c6:d2:32:6f:8f:44", "C6-D2-32-6F-8F-44", "c6d2.326F.8f44"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "c6:d2:32:6f:8f:44", "{text}");
        }
        for text in [
            "",
            "c6",
            "c6:d2:32:6f:8f",
            "c6:d2:32:6f:8f:44:1",
            "g6:d2:32:6f:8f:44",
            "::::: ",
            "+6:d2:32:6f:8f:44",
            "c6:d2-32:6f:8f:44",
            "c6d2.326f",
            "é6:d2:32:6f:8f:44",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn random_address_is_local_and_unicast() {
        for _ in 0..100 {
            let mac = Mac::random();
            assert_eq!(mac.octets()[0] & 3, 2, "{mac}");
            assert!(mac.is_usable());
        }
        assert!(!"00:00:00:00:00:00".parse::<Mac>().unwrap().is_usable());
        assert!(!"01:00:5e:00:00:01".parse::<Mac>().unwrap().is_usable());
    }
}
