//! [`Subnets`]: one slice of each range.

use std::fmt;

use ipnetwork::{Ipv4Network, Ipv6Network};

/// The subnets of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnets {
    /// Its IPv4 subnet: this flanneld serves no network without.
    pub v4: Ipv4Network,
    /// Its IPv6 subnet, on a dual-stack network.
    pub v6: Option<Ipv6Network>,
}

impl Subnets {
    /// Whether two nodes hold one address, of either family.
    pub fn overlap(self, other: Self) -> bool {
        let v6 = self.v6.zip(other.v6);
        self.v4.overlaps(other.v4) || v6.is_some_and(|(own, other)| own.overlaps(other))
    }
}

impl From<Ipv4Network> for Subnets {
    fn from(v4: Ipv4Network) -> Self {
        Self { v4, v6: None }
    }
}

impl fmt::Display for Subnets {
    /// As stock's log lines: `::/0` is no IPv6 subnet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip: {} ", self.v4)?;
        match self.v6 {
            Some(v6) => write!(f, "ipv6: {v6}"),
            None => f.write_str("ipv6: ::/0"),
        }
    }
}

/// Tests name subnets by the IPv4 range.
#[cfg(test)]
impl std::str::FromStr for Subnets {
    type Err = ipnetwork::IpNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|v4: Ipv4Network| v4.into())
    }
}
