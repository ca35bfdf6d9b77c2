//! Why a packet was dropped. A dropped packet is no error: it has a reason, and each reason a counter.

/// Declares [`DropReason`], its names and its number of variants from one list. The documentation of a
/// variant is what `flanneld drops` says of it.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Every variant has a counter in each direction.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The reason's name in statistics, in snake case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, for operators: the documentation above.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_start(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Fewer bytes than an IPv4 header.
    TooShort = "too_short",
    /// The IP version is not 4. IPv6 of link scope, which the kernel itself sends, is not counted.
    NotIpv4 = "not_ipv4",
    /// The header length is below 20 bytes or beyond the packet.
    BadHeaderLength = "bad_header_length",
    /// The total length field differs from the number of bytes received.
    BadTotalLength = "bad_total_length",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// An invalid fragment: it would end past 65,535 bytes, has no payload, or its length is not a
    /// multiple of 8 bytes though more follow (RFC 791).
    BadFragment = "bad_fragment",
    /// The vnet header contradicts the packet behind it.
    BadSuperpacket = "bad_superpacket",
    /// Longer than the MTU of the overlay device: the sender has another MTU.
    Oversized = "oversized",
    /// A source address that no packet may have (RFC 1812 §5.3.7), or one of our own subnet in a
    /// packet from the underlay.
    MartianSource = "martian_source",
    /// The destination is not in this node's subnet: the sender has an old lease or a wrong route.
    NotOurSubnet = "not_our_subnet",
    /// No lease of another node covers the destination.
    NoRoute = "no_route",
    /// A datagram of this overlay that came back through the overlay device, because the kernel
    /// routes that peer's public IP into the overlay.
    Recursion = "recursion",
    /// The TTL expired.
    TtlExpired = "ttl_expired",
    /// Too long for the path to the peer, and must not be fragmented.
    TooBigForPath = "too_big_for_path",
    /// The kernel had no room in its send queues: more was to be sent than the link takes.
    NoBuffers = "no_buffers",
    /// The kernel refused the send: a firewall, no route in the underlay, a dead peer.
    SendRefused = "send_refused",
    /// The kernel refused the packet at the TUN, or the device is down.
    TunRefused = "tun_refused",
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_counter() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, index);
            let meaning = reason.meaning();
            assert!(meaning.ends_with('.') && !meaning.starts_with(' '), "{meaning:?}");
        }
    }
}
