//! Inner header → [`Inner`], or the reason to drop the packet. The first stage of both pipelines.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::headers::{IPV4_HEADER_LEN, MAX_PACKET_LEN, ipv4, ipv4_at, u16_at};
use crate::dataplane::stats::drop_reason::DropReason;

/// What the other stages need to know about a valid inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Length of the IPv4 header with its options, in bytes.
    pub header_len: usize,
    /// Protocol of what follows.
    pub protocol: u8,
    /// Time to live as it came.
    pub ttl: u8,
    /// Whether this is a piece of a larger packet.
    pub is_fragment: bool,
    /// Whether this is a piece other than the first, without a transport header.
    pub is_later_fragment: bool,
}

/// Checks the IPv4 header of `packet`, which must be exactly one packet.
///
/// # Errors
/// The reason why the packet cannot be forwarded.
#[inline]
pub fn inner(packet: &[u8]) -> Result<Inner, DropReason> {
    let Some(&first) = packet.first() else { return Err(DropReason::TooShort) };
    if packet.len() < IPV4_HEADER_LEN {
        return Err(DropReason::TooShort);
    }
    if first >> 4 != 4 {
        return Err(DropReason::NotIpv4);
    }
    let header_len = usize::from(first & 0x0f) * 4;
    if header_len < IPV4_HEADER_LEN || header_len > packet.len() {
        return Err(DropReason::BadHeaderLength);
    }
    if usize::from(u16_at(packet, ipv4::TOTAL_LEN)) != packet.len() {
        return Err(DropReason::BadTotalLength);
    }
    if !Sum::of(&packet[..header_len]).is_valid() {
        return Err(DropReason::BadHeaderChecksum);
    }
    let fragment = u16_at(packet, ipv4::FRAGMENT);
    let inner = Inner {
        src: ipv4_at(packet, ipv4::SRC),
        dst: ipv4_at(packet, ipv4::DST),
        header_len,
        protocol: packet[ipv4::PROTOCOL],
        ttl: packet[ipv4::TTL],
        is_fragment: fragment & (ipv4::MF | ipv4::OFFSET_MASK) != 0,
        is_later_fragment: fragment & ipv4::OFFSET_MASK != 0,
    };
    if inner.is_fragment {
        check_fragment(fragment, packet.len() - header_len)?;
    }
    Ok(inner)
}

/// Destination and length of the packet whose first bytes an ICMP quotes, if it quotes the whole
/// header; `Err` if the bytes cannot be of a packet that this node sent.
///
/// # Errors
/// The reason why.
pub fn quoted(bytes: &[u8]) -> Result<Option<(Ipv4Addr, u16)>, DropReason> {
    if bytes.len() < IPV4_HEADER_LEN {
        return Ok(None);
    }
    if bytes[0] >> 4 != 4 {
        return Err(DropReason::NotIpv4);
    }
    let header_len = usize::from(bytes[0] & 0x0f) * 4;
    if header_len < IPV4_HEADER_LEN {
        return Err(DropReason::BadHeaderLength);
    }
    // A header with options is longer than a quote, so its checksum cannot be verified.
    if bytes.get(..header_len).is_some_and(|header| !Sum::of(header).is_valid()) {
        return Err(DropReason::BadHeaderChecksum);
    }
    Ok(Some((ipv4_at(bytes, ipv4::DST), u16_at(bytes, ipv4::TOTAL_LEN))))
}

/// Refuses fragments that cannot be reassembled. A transport header cut in two is legal (RFC 791,
/// section 3.2); whether to drop it is up to firewalls (RFC 1858).
fn check_fragment(field: u16, payload_len: usize) -> Result<(), DropReason> {
    let offset = usize::from(field & ipv4::OFFSET_MASK) * 8;
    let more_follow = field & ipv4::MF != 0;
    let ends_past_the_longest_packet = offset + payload_len > MAX_PACKET_LEN - IPV4_HEADER_LEN;
    let leaves_a_gap = more_follow && !payload_len.is_multiple_of(8);
    if payload_len == 0 || ends_past_the_longest_packet || leaves_a_gap {
        return Err(DropReason::BadFragment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::packet::checksum::write_ipv4_checksum;
    use crate::dataplane::packet::headers::{protocol, set_u16};

    /// A sound packet of `protocol` with `payload_len` bytes behind its header.
    fn packet(protocol: u8, payload_len: u16) -> Vec<u8> {
        let mut packet = vec![0; 20 + usize::from(payload_len)];
        packet[0] = 0x45;
        set_u16(&mut packet, ipv4::TOTAL_LEN, 20 + payload_len);
        packet[ipv4::TTL] = 64;
        packet[ipv4::PROTOCOL] = protocol;
        packet[ipv4::SRC..ipv4::SRC + 8].copy_from_slice(&[10, 1, 15, 2, 10, 1, 16, 2]);
        write_ipv4_checksum(&mut packet[..20]);
        packet
    }

    fn fragment(protocol: u8, payload_len: u16, field: u16) -> Result<Inner, DropReason> {
        let mut packet = packet(protocol, payload_len);
        set_u16(&mut packet, ipv4::FRAGMENT, field);
        write_ipv4_checksum(&mut packet[..20]);
        inner(&packet)
    }

    #[test]
    fn sound_packet_is_described() {
        let inner = inner(&packet(protocol::UDP, 16)).unwrap();
        assert_eq!((inner.src, inner.dst), ([10, 1, 15, 2].into(), [10, 1, 16, 2].into()));
        assert_eq!((inner.header_len, inner.ttl, inner.protocol), (20, 64, protocol::UDP));
        assert!(!inner.is_fragment);
    }

    #[test]
    fn each_lie_has_its_reason() {
        let sound = packet(protocol::UDP, 16);
        let with = |at: usize, byte: u8| {
            let mut packet = sound.clone();
            packet[at] = byte;
            inner(&packet)
        };
        assert_eq!(inner(&[]), Err(DropReason::TooShort));
        assert_eq!(inner(&sound[..19]), Err(DropReason::TooShort));
        assert_eq!(inner(&sound[..35]), Err(DropReason::BadTotalLength));
        assert_eq!(inner(&[&sound[..], &[0]].concat()), Err(DropReason::BadTotalLength));
        assert_eq!(with(0, 0x65), Err(DropReason::NotIpv4));
        assert_eq!(with(0, 0x44), Err(DropReason::BadHeaderLength));
        assert_eq!(with(0, 0x4f), Err(DropReason::BadHeaderLength));
        assert_eq!(with(ipv4::CHECKSUM, 0), Err(DropReason::BadHeaderChecksum));
    }

    #[test]
    fn honest_fragments_pass() {
        let first = fragment(protocol::UDP, 1448, ipv4::MF).unwrap();
        assert!(first.is_fragment && !first.is_later_fragment);
        let last = fragment(protocol::UDP, 13, 181).unwrap();
        assert!(last.is_fragment && last.is_later_fragment);
        // RFC 791 asks for no more than 8 bytes; RFC 1858 is for filters, which this is none of.
        for protocol in [protocol::TCP, protocol::UDP, protocol::ICMP] {
            for (payload_len, field) in [(8, ipv4::MF), (16, ipv4::MF), (8, 1 | ipv4::MF), (1, 1)] {
                let result = fragment(protocol, payload_len, field);
                assert!(result.is_ok(), "{payload_len} at {field:#x} of {protocol}: {result:?}");
            }
        }
        // Broken up later, by a router that must not: what a host makes of it is its own business.
        assert!(fragment(protocol::UDP, 8, ipv4::DF | 3).is_ok());
    }

    #[test]
    fn dishonest_fragments_do_not() {
        for (protocol, payload_len, field) in [
            (protocol::UDP, 1447, ipv4::MF), // a gap before the next one
            (protocol::ICMP, 1400, 0x1fff),  // ends past 65,535: ping of death
            (protocol::UDP, 0, ipv4::MF),    // carries nothing
            (protocol::TCP, 7, ipv4::MF),    // less than a fragment has, and a gap
        ] {
            let result = fragment(protocol, payload_len, field);
            assert_eq!(result, Err(DropReason::BadFragment), "{payload_len} at {field:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified_or_dropped(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(inner) = inner(&bytes) {
                prop_assert!(inner.header_len <= bytes.len());
            }
        }
    }
}
