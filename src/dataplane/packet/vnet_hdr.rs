//! The header before each packet at a TUN with `IFF_VNET_HDR`.
//!
//! ```text
//! struct virtio_net_hdr, include/uapi/linux/virtio_net.h, native byte order
//!  0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset   10 packet …
//! ```

/// Length of the header, in bytes; the kernel's default, see `TUNSETVNETHDRSZ`.
pub const VNET_HDR_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds only the pseudo header's sum.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment carries CWR.
const GSO_ECN: u8 = 0x80;

/// The kind of a superpacket. Its segments have `gso_size` payload bytes each; the last may have
/// fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// `VIRTIO_NET_HDR_GSO_TCPV4`.
    Tcp4 {
        /// Payload bytes per segment.
        gso_size: u16,
    },
    /// `VIRTIO_NET_HDR_GSO_UDP_L4`.
    Udp {
        /// Payload bytes per segment.
        gso_size: u16,
    },
}

/// A checksum that is still to be computed: over the bytes from `start` to the packet's end, written
/// to `start + offset`. `start` counts from the packet's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte of the sum: the start of the TCP or UDP header.
    pub start: u16,
    /// Offset of the checksum field within that header.
    pub offset: u16,
}

/// The parsed header. The default is the header of a plain packet with a complete checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// Set on a superpacket.
    pub gso: Option<Gso>,
    /// Set when the packet's checksum is partial.
    pub checksum: Option<PartialChecksum>,
    /// Length of all headers; only written, never trusted when read (forwarded superpackets
    /// carry any value).
    pub header_len: u16,
}

/// The kernel sent a `gso_type` that was not requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownGso;

impl VnetHdr {
    /// Reads the header.
    ///
    /// # Errors
    /// [`UnknownGso`] on a type that this data plane does not ask the kernel for.
    pub fn decode(bytes: [u8; VNET_HDR_LEN]) -> Result<Self, UnknownGso> {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso_size = field(4);
        let gso = match bytes[1] & !GSO_ECN {
            0 => None,
            1 => Some(Gso::Tcp4 { gso_size }),
            5 => Some(Gso::Udp { gso_size }),
            _ => return Err(UnknownGso),
        };
        let checksum = (bytes[0] & NEEDS_CSUM != 0)
            .then(|| PartialChecksum { start: field(6), offset: field(8) });
        Ok(Self { gso, checksum, header_len: field(2) })
    }

    /// Writes the header.
    pub fn encode(&self) -> [u8; VNET_HDR_LEN] {
        let mut bytes = [0; VNET_HDR_LEN];
        let mut set = |at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        };
        set(2, self.header_len);
        if let Some(PartialChecksum { start, offset }) = self.checksum {
            set(6, start);
            set(8, offset);
        }
        let gso_type = match self.gso {
            None => 0,
            Some(Gso::Tcp4 { gso_size }) => {
                set(4, gso_size);
                1
            }
            Some(Gso::Udp { gso_size }) => {
                set(4, gso_size);
                5
            }
        };
        bytes[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = gso_type;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_back_as_written() {
        let checksum = Some(PartialChecksum { start: 20, offset: 16 });
        for gso in [None, Some(Gso::Tcp4 { gso_size: 1420 }), Some(Gso::Udp { gso_size: 9 })] {
            for checksum in [None, checksum] {
                let header = VnetHdr { gso, checksum, header_len: 52 };
                assert_eq!(VnetHdr::decode(header.encode()), Ok(header));
            }
        }
    }

    #[test]
    fn plain_packet_has_a_header_of_zeros() {
        assert_eq!(VnetHdr::default().encode(), [0; VNET_HDR_LEN]);
    }

    #[test]
    fn ecn_flag_does_not_hide_the_type() {
        let mut bytes =
            VnetHdr { gso: Some(Gso::Tcp4 { gso_size: 7 }), ..VnetHdr::default() }.encode();
        bytes[1] |= GSO_ECN;
        assert_eq!(VnetHdr::decode(bytes).unwrap().gso, Some(Gso::Tcp4 { gso_size: 7 }));
        bytes[1] = 4; // VIRTIO_NET_HDR_GSO_TCPV6
        assert_eq!(VnetHdr::decode(bytes), Err(UnknownGso));
    }
}
