//! Makes inner packets byte by byte, for tests, benches and labs.

use std::net::SocketAddrV4;

use super::checksum::{Sum, write_ipv4_checksum};
use super::headers::{IPV4_HEADER_LEN, ipv4, protocol, set_u16, set_u32, tcp, udp};

/// Builds an IPv4 packet. Lengths and checksums are computed at [`build`](Self::build).
#[derive(Debug, Clone)]
pub struct PacketBuilder {
    src: SocketAddrV4,
    dst: SocketAddrV4,
    protocol: u8,
    ttl: u8,
    tos: u8,
    id: u16,
    fragment: u16,
    sequence: u32,
    ack: u32,
    flags: u8,
    window: u16,
    urgent: u16,
    ip_options: Vec<u8>,
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
}

impl PacketBuilder {
    /// A UDP packet; addresses read like `10.1.15.2:4000`.
    ///
    /// # Panics
    /// If an address does not parse.
    pub fn udp(src: &str, dst: &str) -> Self {
        Self::new(src, dst, protocol::UDP)
    }

    /// A TCP data segment (ACK set); addresses read like `10.1.15.2:4000`.
    ///
    /// # Panics
    /// If an address does not parse.
    pub fn tcp(src: &str, dst: &str) -> Self {
        Self::new(src, dst, protocol::TCP)
    }

    #[expect(clippy::expect_used, reason = "the addresses are literals of the test that calls")]
    fn new(src: &str, dst: &str, protocol: u8) -> Self {
        Self {
            src: src.parse().expect("source is address:port"),
            dst: dst.parse().expect("destination is address:port"),
            protocol,
            ttl: 64,
            tos: 0,
            id: 1,
            fragment: 0,
            sequence: 1000,
            ack: 2000,
            flags: tcp::ACK_FLAG,
            window: 500,
            urgent: 0,
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        payload.clone_into(&mut self.payload);
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the type-of-service byte.
    #[must_use]
    pub const fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the identification.
    #[must_use]
    pub const fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// Sets the 16-bit header field of flags and fragment offset.
    #[must_use]
    pub const fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }

    /// Sets TCP's sequence and acknowledgment numbers.
    #[must_use]
    pub const fn sequence(mut self, sequence: u32, ack: u32) -> Self {
        self.sequence = sequence;
        self.ack = ack;
        self
    }

    /// Sets TCP's flags.
    #[must_use]
    pub const fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Sets TCP's urgent pointer.
    #[must_use]
    pub const fn urgent(mut self, urgent: u16) -> Self {
        self.urgent = urgent;
        self
    }

    /// Sets IPv4's options, a multiple of 4 bytes and at most 40.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        options.clone_into(&mut self.ip_options);
        self
    }

    /// Sets TCP's options, a multiple of 4 bytes and at most 40.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        options.clone_into(&mut self.tcp_options);
        self
    }

    /// The packet, complete with lengths and checksums.
    pub fn build(&self) -> Vec<u8> {
        let l4 = self.transport();
        let mut packet = vec![0; IPV4_HEADER_LEN];
        packet.extend_from_slice(&self.ip_options);
        let header_len = packet.len();
        packet[0] = 0x40 | u8::try_from(header_len / 4).unwrap_or(0);
        packet[ipv4::TOS] = self.tos;
        #[expect(clippy::cast_possible_truncation, reason = "a test's packet is below 64 KiB")]
        let (packet_len, l4_len) = ((header_len + l4.len()) as u16, l4.len() as u16);
        set_u16(&mut packet, ipv4::TOTAL_LEN, packet_len);
        set_u16(&mut packet, ipv4::ID, self.id);
        set_u16(&mut packet, ipv4::FRAGMENT, self.fragment);
        packet[ipv4::TTL] = self.ttl;
        packet[ipv4::PROTOCOL] = self.protocol;
        packet[ipv4::SRC..ipv4::DST].copy_from_slice(&self.src.ip().octets());
        packet[ipv4::DST..IPV4_HEADER_LEN].copy_from_slice(&self.dst.ip().octets());
        write_ipv4_checksum(&mut packet);
        let pseudo = Sum::of_pseudo_header(*self.src.ip(), *self.dst.ip(), self.protocol, l4_len);
        let checksum = pseudo.plus(Sum::of(&l4)).checksum();
        packet.extend_from_slice(&l4);
        let at = if self.protocol == protocol::UDP { udp::CHECKSUM } else { tcp::CHECKSUM };
        packet[header_len + at..header_len + at + 2].copy_from_slice(&checksum);
        packet
    }

    /// Transport header, checksum zero, and payload.
    fn transport(&self) -> Vec<u8> {
        let mut l4 = if self.protocol == protocol::UDP {
            let mut header = vec![0; udp::HEADER_LEN];
            #[expect(clippy::cast_possible_truncation, reason = "a test's packet is below 64 KiB")]
            set_u16(&mut header, udp::LEN, (udp::HEADER_LEN + self.payload.len()) as u16);
            header
        } else {
            let mut header = vec![0; tcp::HEADER_LEN];
            set_u32(&mut header, tcp::SEQUENCE, self.sequence);
            set_u32(&mut header, tcp::ACK, self.ack);
            let words = (tcp::HEADER_LEN + self.tcp_options.len()) / 4;
            header[tcp::DATA_OFFSET] = u8::try_from(words << 4).unwrap_or(0);
            header[tcp::FLAGS] = self.flags;
            set_u16(&mut header, tcp::WINDOW, self.window);
            set_u16(&mut header, tcp::URGENT, self.urgent);
            header.extend_from_slice(&self.tcp_options);
            header
        };
        set_u16(&mut l4, 0, self.src.port());
        set_u16(&mut l4, 2, self.dst.port());
        l4.extend_from_slice(&self.payload);
        l4
    }
}
