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

/// Room for the control message of one received buffer: `UDP_GRO`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct RecvControl(pub [u8; MESSAGE_LEN]);

impl RecvControl {
    /// An empty buffer to receive into.
    pub const EMPTY: Self = Self([0; MESSAGE_LEN]);

    /// Length of each datagram in the buffer, if the kernel joined several: the `int` of `udp_cmsg_recv`
    /// in net/ipv4/udp.c. The message fills the first `len` bytes.
    pub fn gro_size(&self, len: usize) -> Option<usize> {
        let bytes = self.0.get(..len)?;
        let message = bytes.first_chunk::<{ HEADER_LEN + 4 }>()?;
        let int = |at: usize| {
            i32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
        };
        let is_gro = (int(LEVEL), int(TYPE)) == (libc::SOL_UDP, libc::UDP_GRO);
        let size = usize::try_from(int(HEADER_LEN)).ok()?;
        (is_gro && (1..=MAX_PACKET_LEN).contains(&size)).then_some(size)
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

    fn read(message: [u8; MESSAGE_LEN]) -> Option<usize> {
        RecvControl(message).gro_size(MESSAGE_LEN)
    }

    const GRO: (i32, i32) = (17, 104);

    #[test]
    fn segment_message_has_the_bytes_the_kernel_reads() {
        let control = SendControl::udp_segment(1472).0;
        assert_eq!(usize::from_ne_bytes(control[..LEVEL].try_into().unwrap()), HEADER_LEN + 2);
        assert_eq!(control[LEVEL..TYPE], 17_i32.to_ne_bytes());
        assert_eq!(control[TYPE..HEADER_LEN], 103_i32.to_ne_bytes());
        assert_eq!(control[HEADER_LEN..HEADER_LEN + 2], 1472_u16.to_ne_bytes());
    }

    #[test]
    fn length_of_joined_datagrams_is_read() {
        assert_eq!(read(message(GRO.0, GRO.1, 1472)), Some(1472));
        assert_eq!(RecvControl::EMPTY.gro_size(0), None, "one datagram by itself");
    }

    #[test]
    fn unknown_and_impossible_messages_are_ignored() {
        assert_eq!(read(message(0, 8, 64)), None);
        assert_eq!(read(message(GRO.0, GRO.1, 0)), None);
        assert_eq!(read(message(GRO.0, GRO.1, u32::MAX)), None);
        let control = RecvControl(message(GRO.0, GRO.1, 1472));
        assert_eq!(control.gro_size(HEADER_LEN), None, "cut off");
        assert_eq!(control.gro_size(2 * MESSAGE_LEN), None, "longer than there is room");
    }
}
