//! Why a packet ended here. A dropped packet is no error: it is one of these, and a counter.

/// Declares [`DropReason`], its names and its number of variants from one list.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet ended here. Every variant has a counter in each direction.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[$doc])+ $variant,)+
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
        }
    };
}

drop_reasons! {
    /// Fewer bytes than an IPv4 header.
    TooShort = "too_short",
    /// The version nibble is not 4. What the kernel itself says on the device in IPv6 is not counted.
    NotIpv4 = "not_ipv4",
    /// The header length is below 20 bytes or beyond the packet.
    BadHeaderLength = "bad_header_length",
    /// The total length field is not the number of bytes that came.
    BadTotalLength = "bad_total_length",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// A fragment that no honest sender makes: it would end past 65,535 bytes, carries nothing, or
    /// is not a multiple of 8 bytes though more follow (RFC 791).
    BadFragment = "bad_fragment",
    /// The vnet header contradicts the packet behind it.
    BadSuperpacket = "bad_superpacket",
    /// Longer than the TUN's MTU.
    Oversized = "oversized",
    /// A source address that no packet may carry (RFC 1812 §5.3.7), or that is of our own subnet
    /// though the packet came by the wire.
    MartianSource = "martian_source",
    /// Came for a subnet that is not ours.
    NotOurSubnet = "not_our_subnet",
    /// No lease covers the destination.
    NoRoute = "no_route",
    /// A datagram around a packet of this overlay that came back through the overlay device: the
    /// kernel routes that peer's public IP into the overlay.
    Recursion = "recursion",
    /// The TTL ended here.
    TtlExpired = "ttl_expired",
    /// Longer than the path to the peer takes, and not to be fragmented.
    TooBigForPath = "too_big_for_path",
    /// The kernel had no room in its send queues.
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
        }
    }
}
