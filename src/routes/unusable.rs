//! Addresses at which no other host can be reached.

use std::net::Ipv4Addr;

/// Why other hosts cannot send to `addr`; `None` if they can.
/// Ranges: RFC 6890, section 2.2.2.
pub const fn unusable(addr: Ipv4Addr) -> Option<&'static str> {
    match addr.octets()[0] {
        0 => Some("no address of a host"),
        127 => Some("a loopback address"),
        224..=239 => Some("a multicast address"),
        240..=255 if addr.is_broadcast() => Some("the broadcast address"),
        240..=255 => Some("a reserved address"),
        1..=223 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_the_ranges_are_where_the_registry_has_them() {
        for (addr, what) in [
            ("0.0.0.0", Some("no address of a host")),
            ("0.255.255.255", Some("no address of a host")),
            ("1.0.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.0", Some("a loopback address")),
            ("128.0.0.0", None),
            ("169.254.1.1", None),
            ("223.255.255.255", None),
            ("224.0.0.0", Some("a multicast address")),
            ("239.255.255.255", Some("a multicast address")),
            ("240.0.0.0", Some("a reserved address")),
            ("255.255.255.254", Some("a reserved address")),
            ("255.255.255.255", Some("the broadcast address")),
        ] {
            assert_eq!(unusable(addr.parse().unwrap()), what, "{addr}");
        }
    }
}
