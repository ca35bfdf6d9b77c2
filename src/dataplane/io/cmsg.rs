//! The control messages of sends and receives. Bytes only; no system call.
//!
//! ```text
//! struct cmsghdr, 64-bit: 0 length (8)   8 level (4)   12 type (4)   16 data, padded to 8
//! ```

use crate::dataplane::packet::headers::MAX_PACKET_LEN;

/// Length of `struct cmsghdr`, to whose multiple the data is padded.
const HEADER_LEN: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();
/// Room for one control message with at most one word of data: `CMSG_SPACE(8)`.
const MESSAGE_LEN: usize = HEADER_LEN + size_of::<usize>();
/// Offsets of the level and the type.
const LEVEL: usize = size_of::<usize>();
const TYPE: usize = LEVEL + size_of::<libc::c_int>();

/// The control message of one send, aligned as the kernel's `struct cmsghdr` requires.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct SendControl(pub [u8; MESSAGE_LEN]);

impl SendControl {
    /// `UDP_SEGMENT`: cut what is sent into datagrams of `gso_size` bytes (`udp(7)`).
    pub fn udp_segment(gso_size: u16) -> Self {
        let mut bytes = [0; MESSAGE_LEN];
        let len = HEADER_LEN + size_of::<u16>();
        bytes[..LEVEL].copy_from_slice(&len.to_ne_bytes());
        bytes[LEVEL..TYPE].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[TYPE..HEADER_LEN].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[HEADER_LEN..len].copy_from_slice(&gso_size.to_ne_bytes());
        Self(bytes)
    }
}

/// Room for the control messages of one received buffer: `UDP_GRO` and `SO_RXQ_OVFL`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct RecvControl(pub [u8; 2 * MESSAGE_LEN]);

/// What the control messages of a received buffer say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Length of each datagram, if the kernel joined several (`UDP_GRO`).
    pub gro_size: Option<usize>,
    /// Datagrams that the socket has dropped so far because its buffer was full, modulo 2³²
    /// (`SO_RXQ_OVFL`, `socket(7)`); absent while there were none.
    pub overflows: Option<u32>,
}

impl RecvControl {
    /// An empty buffer to receive into.
    pub const EMPTY: Self = Self([0; 2 * MESSAGE_LEN]);

    /// Reads the messages in the first `len` bytes. Both carry 4 bytes: the kernel's `int` and
    /// `__u32` (`udp_cmsg_recv` in net/ipv4/udp.c, `sock_recv_drops` in net/socket.c).
    pub fn read(&self, len: usize) -> Received {
        let mut received = Received::default();
        let mut rest = &self.0[..len.min(self.0.len())];
        while let Some(message) = rest.first_chunk::<{ HEADER_LEN + 4 }>() {
            let word = |at: usize| [message[at], message[at + 1], message[at + 2], message[at + 3]];
            let data = word(HEADER_LEN);
            match (i32::from_ne_bytes(word(LEVEL)), i32::from_ne_bytes(word(TYPE))) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let gro_size = usize::try_from(i32::from_ne_bytes(data)).ok();
                    received.gro_size = gro_size.filter(|size| (1..=MAX_PACKET_LEN).contains(size));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    received.overflows = Some(u32::from_ne_bytes(data));
                }
                _ => {}
            }
            rest = rest.get(MESSAGE_LEN..).unwrap_or_default();
        }
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One received message: level, type and 4 bytes of data, padded.
    fn message(level: i32, kind: i32, data: u32) -> [u8; MESSAGE_LEN] {
        let mut bytes = [0; MESSAGE_LEN];
        bytes[..LEVEL].copy_from_slice(&(HEADER_LEN + 4).to_ne_bytes());
        bytes[LEVEL..TYPE].copy_from_slice(&level.to_ne_bytes());
        bytes[TYPE..HEADER_LEN].copy_from_slice(&kind.to_ne_bytes());
        bytes[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&data.to_ne_bytes());
        bytes
    }

    fn read(messages: &[[u8; MESSAGE_LEN]]) -> Received {
        let mut control = RecvControl::EMPTY;
        let bytes = messages.concat();
        control.0[..bytes.len()].copy_from_slice(&bytes);
        control.read(bytes.len())
    }

    const GRO: (i32, i32) = (17, 104);
    const OVERFLOWS: (i32, i32) = (1, 40);

    #[test]
    fn segment_message_has_the_bytes_the_kernel_reads() {
        let control = SendControl::udp_segment(1472).0;
        assert_eq!(usize::from_ne_bytes(control[..LEVEL].try_into().unwrap()), HEADER_LEN + 2);
        assert_eq!(control[LEVEL..TYPE], 17_i32.to_ne_bytes());
        assert_eq!(control[TYPE..HEADER_LEN], 103_i32.to_ne_bytes());
        assert_eq!(control[HEADER_LEN..HEADER_LEN + 2], 1472_u16.to_ne_bytes());
    }

    #[test]
    fn messages_are_read_in_any_order() {
        let gro = message(GRO.0, GRO.1, 1472);
        let overflows = message(OVERFLOWS.0, OVERFLOWS.1, 7);
        let both = Received { gro_size: Some(1472), overflows: Some(7) };
        assert_eq!(read(&[gro, overflows]), both);
        assert_eq!(read(&[overflows, gro]), both);
        assert_eq!(read(&[overflows]), Received { gro_size: None, overflows: Some(7) });
        assert_eq!(read(&[]), Received::default());
    }

    #[test]
    fn unknown_and_impossible_messages_are_ignored() {
        assert_eq!(read(&[message(0, 8, 64)]), Received::default());
        assert_eq!(read(&[message(GRO.0, GRO.1, 0)]), Received::default());
        assert_eq!(read(&[message(GRO.0, GRO.1, u32::MAX)]), Received::default());
        let mut control = RecvControl::EMPTY;
        control.0[..MESSAGE_LEN].copy_from_slice(&message(GRO.0, GRO.1, 1472));
        assert_eq!(control.read(HEADER_LEN), Received::default(), "cut off");
    }
}
