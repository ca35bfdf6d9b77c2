//! The internet checksum (RFC 1071), and its patch for a TTL step (RFC 1624).
//!
//! Sums are kept unfolded and in native byte order. The one's complement sum allows both, as long
//! as every part starts at an even offset. All headers here are multiples of 4 bytes.

use std::net::Ipv4Addr;

use super::headers::{ipv4, set_u16, u16_at};
use super::sys;

/// An unfolded one's complement sum of 16-bit words in native byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte is padded with a zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sys::checksum::sum(bytes))
    }

    /// The sum of the pseudo header before a TCP or UDP header (RFC 9293 §3.1).
    ///
    /// `l4_len` is the length of that header and its payload, in bytes.
    #[inline]
    pub fn of_pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4_len: u16) -> Self {
        let mut bytes = [0; 12];
        bytes[0..4].copy_from_slice(&src.octets());
        bytes[4..8].copy_from_slice(&dst.octets());
        bytes[9] = protocol;
        bytes[10..12].copy_from_slice(&l4_len.to_be_bytes());
        Self::of(&bytes)
    }

    /// Both sums together.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The 16-bit sum, in the byte order of the wire.
    #[inline]
    pub const fn fold(self) -> [u8; 2] {
        let mut sum = self.0;
        // The folds reduce 64 bits to 33, 32, 17, 17 and finally 16 bits.
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: the complement of the sum, in the byte order of the wire.
    #[inline]
    pub const fn checksum(self) -> [u8; 2] {
        let [a, b] = self.fold();
        [!a, !b]
    }

    /// Whether the sum of bytes that include their own checksum is right.
    #[inline]
    pub const fn is_valid(self) -> bool {
        matches!(self.fold(), [0xff, 0xff])
    }
}

/// Computes the checksum of an IPv4 header and writes it into the header.
#[inline]
pub fn write_ipv4_checksum(header: &mut [u8]) {
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
    let checksum = Sum::of(header).checksum();
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum);
}

/// Takes 1 from the TTL, which must not be 0, and patches the header checksum (RFC 1624 §3).
///
/// The TTL is the high byte of its 16-bit word, so the sum falls by 0x0100 and its complement
/// rises by as much, with end-around carry. Stock does the same in `proxy_amd64.c`.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) {
    packet[ipv4::TTL] -= 1;
    let (sum, carry) = u16_at(packet, ipv4::CHECKSUM).overflowing_add(0x0100);
    set_u16(packet, ipv4::CHECKSUM, sum + u16::from(carry));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1 word by word, the slow and obvious way.
    fn reference(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap().to_be_bytes()
    }

    /// Zero has two forms in one's complement.
    fn canonical(sum: [u8; 2]) -> [u8; 2] {
        if sum == [0xff, 0xff] { [0, 0] } else { sum }
    }

    #[test]
    fn example_of_rfc_1071_adds_up() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), [0xdd, 0xf2]);
    }

    #[test]
    fn longest_packet_of_ones_does_not_overflow() {
        assert!(Sum::of(&vec![0xff; 65_536]).is_valid());
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(canonical(Sum::of(&bytes).fold()), canonical(reference(&bytes)));
        }

        #[test]
        fn parts_add_up_to_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
            at in 0_usize..250,
        ) {
            let (head, tail) = bytes.split_at((at * 2).min(bytes.len() & !1));
            let parts = Sum::of(head).plus(Sum::of(tail));
            prop_assert_eq!(canonical(parts.fold()), canonical(Sum::of(&bytes).fold()));
        }

        #[test]
        fn ttl_step_keeps_a_valid_header_valid(mut header in any::<[u8; 20]>(), ttl in 1_u8..) {
            header[ipv4::TTL] = ttl;
            write_ipv4_checksum(&mut header);
            decrement_ttl(&mut header);
            prop_assert_eq!(header[ipv4::TTL], ttl - 1);
            prop_assert!(Sum::of(&header).is_valid());
        }
    }
}
