//! Which flow a packet belongs to: a hash of the inner 5-tuple.

use super::classify::Inner;
use super::headers::{protocol, u32_at};

/// The hash of the flow of `packet`, which `inner` describes.
///
/// Only the first fragment of a packet has ports. So all fragments are hashed by addresses and
/// protocol, and stay together.
#[inline]
pub fn hash(packet: &[u8], inner: &Inner) -> u64 {
    let ports = match inner.protocol {
        protocol::TCP | protocol::UDP
            if !inner.is_fragment && packet.len() >= inner.header_len + 4 =>
        {
            u32_at(packet, inner.header_len)
        }
        _ => 0,
    };
    let addresses = u64::from(inner.src.to_bits()) << 32 | u64::from(inner.dst.to_bits());
    mix(mix(addresses) ^ u64::from(ports) ^ u64::from(inner.protocol) << 32)
}

/// Multiplicative hashing (Knuth, TAOCP 6.4): every bit of `key` reaches the high bits.
#[inline]
const fn mix(key: u64) -> u64 {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / φ
    (key ^ key >> 32).wrapping_mul(GOLDEN_RATIO)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::dataplane::packet::builder::PacketBuilder;
    use crate::dataplane::packet::classify;

    fn of(builder: &PacketBuilder) -> u64 {
        let packet = builder.build();
        hash(&packet, &classify::inner(&packet).unwrap())
    }

    #[test]
    fn packets_of_one_flow_have_one_hash() {
        let flow = PacketBuilder::tcp("10.1.15.2:4000", "10.1.16.2:5001");
        assert_eq!(of(&flow), of(&flow.clone().payload(&[1; 99]).sequence(7, 8).id(9)));
    }

    #[test]
    fn pieces_of_one_packet_stay_together() {
        let packet = PacketBuilder::udp("10.1.15.2:4000", "10.1.16.2:5001").payload(&[0; 24]);
        let first = packet.clone().fragment(0x2000);
        let later = packet.fragment(0x0004);
        assert_eq!(of(&first), of(&later));
    }

    #[test]
    fn flows_between_two_pods_spread_over_the_high_bits() {
        let high_bits = |port: u16| {
            let src = format!("10.1.15.2:{port}");
            of(&PacketBuilder::tcp(&src, "10.1.16.2:5001")) >> 61
        };
        let seen: HashSet<u64> = (40_000..40_064).map(high_bits).collect();
        assert_eq!(seen.len(), 8);
    }
}
