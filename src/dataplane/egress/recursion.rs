//! Detects our own datagrams that the kernel routes back into the overlay. Egress.
//!
//! A lease whose public IP lies in the overlay makes the kernel route the datagrams to that peer
//! into the overlay device. There each would be read as a packet for a peer and put into another
//! datagram, in an endless loop.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::headers::{IPV4_HEADER_LEN, ipv4, ipv4_at, protocol, u16_at, udp};
use crate::routes::RouteTable;

/// Offset of the destination port in a UDP header.
const DST_PORT: usize = 2;

/// Distinguishes datagrams that come back from packets of the overlay.
///
/// Such a datagram is recognised by its payload: a packet that our own routes send to exactly the
/// datagram's destination address and port. Its source is not reliable, because masquerade rules
/// change the address and often the port.
#[derive(Debug, Default)]
pub struct RecursionGuard {
    /// The last datagram that came back in fragments. Only its first fragment shows the payload.
    fragmented: Option<Fragmented>,
}

/// What the fragments of one datagram have in common (RFC 791, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fragmented {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    id: u16,
}

impl RecursionGuard {
    /// Whether `packet`, read from the TUN, is a datagram that carries another packet of this overlay.
    /// `port` is the port of the peers if it is known.
    #[inline]
    pub fn finds(
        &mut self,
        packet: &[u8],
        inner: &Inner,
        port: Option<u16>,
        routes: &RouteTable,
    ) -> bool {
        if inner.protocol != protocol::UDP {
            return false;
        }
        if inner.is_later_fragment {
            return self.fragmented.is_some_and(|known| known == Fragmented::of(packet, inner));
        }
        let datagram = &packet[inner.header_len..];
        if datagram.len() < udp::HEADER_LEN + IPV4_HEADER_LEN {
            return false;
        }
        let to = SocketAddrV4::new(inner.dst, u16_at(datagram, DST_PORT));
        if port.is_some_and(|port| port != to.port()) {
            return false;
        }
        self.carries_a_packet_for(to, datagram, packet, inner, routes)
    }

    #[cold]
    fn carries_a_packet_for(
        &mut self,
        to: SocketAddrV4,
        datagram: &[u8],
        packet: &[u8],
        inner: &Inner,
        routes: &RouteTable,
    ) -> bool {
        let carried = &datagram[udp::HEADER_LEN..];
        let is_ipv4 = carried[0] >> 4 == 4;
        let next_hop = routes.lookup(ipv4_at(carried, ipv4::DST));
        let comes_back = is_ipv4 && next_hop.is_some_and(|next_hop| next_hop.addr == to);
        if comes_back && inner.is_fragment {
            self.fragmented = Some(Fragmented::of(packet, inner));
        }
        comes_back
    }
}

impl Fragmented {
    fn of(packet: &[u8], inner: &Inner) -> Self {
        Self { src: inner.src, dst: inner.dst, id: u16_at(packet, ipv4::ID) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::packet::builder::PacketBuilder;
    use crate::dataplane::packet::classify;
    use crate::routes::{NextHop, Route};

    const MF: u16 = 0x2000;

    /// 10.1.245.0/24 is at 10.1.245.5; 10.1.1.0/24 and 10.1.2.0/24 are in each other; 10.1.16.0/24
    /// is at a host of the underlay, and 10.1.7.0/24 where there is no route.
    fn routes() -> RouteTable {
        let route = |(subnet, peer): (&str, &str)| Route {
            subnet: subnet.parse().unwrap(),
            next_hop: NextHop::new(peer.parse().unwrap()),
        };
        let routes = [
            ("10.1.245.0/24", "10.1.245.5:8285"),
            ("10.1.1.0/24", "10.1.2.5:8285"),
            ("10.1.2.0/24", "10.1.1.5:8285"),
            ("10.1.16.0/24", "192.0.2.16:8285"),
            ("10.1.7.0/24", "10.1.99.1:8285"),
        ];
        RouteTable::build("10.1.0.0/16".parse().unwrap(), 24, routes.map(route))
    }

    fn finds(guard: &mut RecursionGuard, packet: &[u8]) -> bool {
        let (inner, routes) = (classify::inner(packet).unwrap(), routes());
        let port = routes.lookup(inner.dst).map(|next_hop| next_hop.addr.port());
        guard.finds(packet, &inner, port, &routes)
    }

    /// A datagram from `src` to `dst` around a packet for `carried`.
    fn datagram(src: &str, dst: &str, carried: &str) -> PacketBuilder {
        let carried = PacketBuilder::udp("10.1.15.2:1", carried).payload(&[7; 100]).build();
        PacketBuilder::udp(src, dst).id(77).payload(&carried)
    }

    #[test]
    fn datagram_to_the_peer_of_what_it_carries_comes_back() {
        for (src, dst, carried) in [
            ("192.0.2.15:8285", "10.1.245.5:8285", "10.1.245.9:2"),
            ("192.0.2.15:40000", "10.1.245.5:8285", "10.1.245.5:2"), // a source port of its own
            ("10.1.15.0:8285", "10.1.245.5:8285", "10.1.245.9:2"),   // masqueraded
            ("10.1.15.0:31234", "10.1.245.5:8285", "10.1.245.9:2"),  // with a random port
            ("192.0.2.15:8285", "10.1.2.5:8285", "10.1.1.9:2"),      // a loop of two leases
            ("192.0.2.15:8285", "10.1.99.1:8285", "10.1.7.9:2"),     // without a lease of its own
        ] {
            let packet = datagram(src, dst, carried).build();
            assert!(finds(&mut RecursionGuard::default(), &packet), "{src} to {dst}: {carried}");
        }
    }

    #[test]
    fn its_later_fragments_are_known_by_the_first() {
        let mut guard = RecursionGuard::default();
        let first = datagram("192.0.2.15:8285", "10.1.245.5:8285", "10.1.245.9:2");
        let first = first.id(5).fragment(MF).build();
        let later = |id| {
            let builder = PacketBuilder::udp("192.0.2.15:8285", "10.1.245.5:8285").id(id);
            builder.fragment(181).payload(&[7; 40]).build()
        };
        assert!(!finds(&mut guard, &later(5)), "of some other datagram");
        assert!(finds(&mut guard, &first));
        assert!(finds(&mut guard, &later(5)));
        assert!(!finds(&mut guard, &later(6)));
    }

    #[test]
    fn other_packets_pass() {
        for packet in [
            // An overlay in the overlay: it carries packets of a network that is not ours.
            datagram("10.1.15.2:8285", "10.1.16.5:8285", "10.9.16.9:2"),
            // To the peers' port, but not what that peer gets from us.
            datagram("10.1.15.2:8285", "10.1.16.5:8285", "10.1.16.9:2"),
            datagram("192.0.2.15:8285", "10.1.245.5:8285", "10.1.16.9:2"),
            // To another port.
            datagram("192.0.2.15:8285", "10.1.245.5:8286", "10.1.245.9:2"),
            // What it carries is no packet, or too short to be one.
            PacketBuilder::udp("192.0.2.15:8285", "10.1.245.5:8285").payload(&[0; 40]),
            PacketBuilder::udp("192.0.2.15:8285", "10.1.245.5:8285").payload(&[0x45; 19]),
            PacketBuilder::udp("192.0.2.15:8285", "10.1.245.5:8285"),
            PacketBuilder::tcp("192.0.2.15:8285", "10.1.245.5:8285").payload(&[0x45; 60]),
        ] {
            let packet = packet.build();
            assert!(!finds(&mut RecursionGuard::default(), &packet), "{packet:?}");
        }
    }
}
