//! Datagram → inner packet for the TUN. Ingress, first stage; no I/O.
//!
//! Every packet is checked as a router would check it (RFC 1812 §5.2.2, §5.3.7); in addition it must
//! be for our own subnet. The outer source is not checked, as in stock flannel: a peer may be behind
//! a NAT, and its outer source is not always the address it publishes.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::dataplane::packet::checksum::decrement_ttl;
use crate::dataplane::packet::classify;
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::stats::drop_reason::DropReason;

/// Which packets this node accepts from peers.
#[derive(Debug, Clone, Copy)]
pub struct IngressFilter {
    /// Our lease: inner destinations must be in it.
    pub subnet: Ipv4Network,
    /// MTU of the TUN, in bytes: the longest packet.
    pub tun_mtu: usize,
}

impl IngressFilter {
    /// Checks the packet in `datagram` and takes 1 from its TTL.
    ///
    /// # Errors
    /// Why the packet is dropped; it is unchanged then.
    #[inline]
    pub fn check(&self, datagram: &mut [u8]) -> Result<Inner, DropReason> {
        if datagram.len() > self.tun_mtu {
            return Err(DropReason::Oversized);
        }
        let inner = classify::inner(datagram)?;
        if !self.subnet.contains(inner.dst) {
            return Err(DropReason::NotOurSubnet);
        }
        // Packets of our own pods come through the TUN, never from the underlay.
        if is_martian(inner.src) || self.subnet.contains(inner.src) {
            return Err(DropReason::MartianSource);
        }
        if inner.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        decrement_ttl(datagram);
        Ok(inner)
    }
}

/// Whether no packet from another host may have this source (RFC 1812 §5.3.7): "this network",
/// loopback, multicast and above.
#[inline]
const fn is_martian(src: Ipv4Addr) -> bool {
    matches!(src.octets()[0], 0 | 127 | 224..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::packet::builder::PacketBuilder;

    const FILTER: fn() -> IngressFilter =
        || IngressFilter { subnet: "10.1.16.0/24".parse().unwrap(), tun_mtu: 1472 };

    #[test]
    fn packet_for_our_subnet_is_accepted_with_one_ttl_less() {
        let mut packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").payload(&[1; 9]).build();
        let before = packet.clone();
        assert!(FILTER().check(&mut packet).is_ok());
        assert_eq!(packet[8], before[8] - 1);
        assert!(classify::inner(&packet).is_ok());
    }

    #[test]
    fn packet_with_the_last_ttl_is_dropped_unchanged() {
        for ttl in [0, 1] {
            let builder = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2");
            let mut packet = builder.ttl(ttl).build();
            let before = packet.clone();
            assert_eq!(FILTER().check(&mut packet), Err(DropReason::TtlExpired));
            assert_eq!(packet, before);
        }
    }

    #[test]
    fn packet_for_another_subnet_is_dropped() {
        let mut packet = PacketBuilder::udp("10.1.15.2:1", "10.1.17.2:2").build();
        assert_eq!(FILTER().check(&mut packet), Err(DropReason::NotOurSubnet));
    }

    #[test]
    fn impossible_sources_are_dropped() {
        for src in ["0.1.2.3:1", "127.0.0.1:1", "224.0.0.1:1", "240.0.0.1:1", "255.255.255.255:1"] {
            let mut packet = PacketBuilder::udp(src, "10.1.16.2:2").build();
            assert_eq!(FILTER().check(&mut packet), Err(DropReason::MartianSource), "{src}");
        }
    }

    #[test]
    fn source_of_our_own_subnet_is_spoofed() {
        for src in ["10.1.16.0:1", "10.1.16.2:1", "10.1.16.77:1", "10.1.16.255:1"] {
            let mut packet = PacketBuilder::udp(src, "10.1.16.2:2").build();
            assert_eq!(FILTER().check(&mut packet), Err(DropReason::MartianSource), "{src}");
        }
        for src in ["10.1.15.255:1", "10.1.17.0:1", "192.168.1.1:1"] {
            let mut packet = PacketBuilder::udp(src, "10.1.16.2:2").build();
            assert!(FILTER().check(&mut packet).is_ok(), "{src}");
        }
    }

    #[test]
    fn longest_packet_is_the_mtu() {
        let build = |payload_len| {
            let payload = vec![7; payload_len];
            PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").payload(&payload).build()
        };
        assert!(FILTER().check(&mut build(1472 - 28)).is_ok());
        assert_eq!(FILTER().check(&mut build(1472 - 27)), Err(DropReason::Oversized));
    }
}
