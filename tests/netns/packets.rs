//! Hand-made inner packets, valid and invalid.

use std::net::Ipv4Addr;

/// Offsets in an IPv4 header (RFC 791).
pub mod at {
    pub const VERSION: usize = 0;
    pub const TOTAL_LEN: usize = 2;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const CHECKSUM: usize = 10;
}

/// A valid UDP packet with `payload_len` bytes behind its headers, TTL 64.
pub fn udp(src: Ipv4Addr, dst: Ipv4Addr, payload_len: u16) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[at::VERSION] = 0x45;
    packet[at::TOTAL_LEN..][..2].copy_from_slice(&(28 + payload_len).to_be_bytes());
    packet[at::TTL] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&src.octets());
    packet[16..20].copy_from_slice(&dst.octets());
    let mut udp = vec![0x30, 0x39, 0x1b, 0x5f]; // from port 12345 to 7007
    udp.extend((8 + payload_len).to_be_bytes());
    udp.extend([0, 0]); // no checksum, which IPv4 allows
    udp.resize(8 + usize::from(payload_len), 0xa5);
    packet.extend(udp);
    seal(packet)
}

/// The packet with `bytes` written at an offset; its header checksum is as it was.
pub fn with(mut packet: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    packet
}

/// The packet with the right header checksum (RFC 1071).
pub fn seal(mut packet: Vec<u8>) -> Vec<u8> {
    packet[at::CHECKSUM..][..2].fill(0);
    let sum = packet[..20].chunks(2).fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    });
    packet[at::CHECKSUM..][..2].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

/// `num` datagrams of arbitrary bytes and lengths, the same for every run.
pub fn noise(num: usize) -> Vec<Vec<u8>> {
    let mut state: u32 = 0x2545_f491;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..num)
        .map(|_| {
            let len = next() % 1400;
            (0..len).map(|_| next().to_be_bytes()[0]).collect()
        })
        .collect()
}
