//! The two control messages of UDP offload. Bytes only; no system call.
//!
//! ```text
//! struct cmsghdr, 64-bit: 0 length (8)   8 level (4)   12 type (4)   16 data, padded to 8
//! ```

use super::headers::MAX_PACKET_LEN;

/// Length of `struct cmsghdr`, to whose multiple the data is padded.
const HEADER_LEN: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();
/// Room for one control message with at most one word of data: `CMSG_SPACE(8)`.
pub(super) const CMSG_LEN: usize = HEADER_LEN + size_of::<usize>();
/// Where the level and the type stand.
const LEVEL: usize = size_of::<usize>();
const TYPE: usize = LEVEL + size_of::<libc::c_int>();

/// A buffer of one control message, aligned as the kernel's `struct cmsghdr` wants it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Cmsg(pub [u8; CMSG_LEN]);

impl Cmsg {
    /// An empty buffer to receive into.
    pub(super) const EMPTY: Self = Self([0; CMSG_LEN]);

    /// `UDP_SEGMENT`: cut what is sent into datagrams of `gso_size` bytes (`udp(7)`).
    pub(super) fn udp_segment(gso_size: u16) -> Self {
        let mut bytes = [0; CMSG_LEN];
        let len = HEADER_LEN + size_of::<u16>();
        bytes[..LEVEL].copy_from_slice(&len.to_ne_bytes());
        bytes[LEVEL..TYPE].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[TYPE..HEADER_LEN].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[HEADER_LEN..len].copy_from_slice(&gso_size.to_ne_bytes());
        Self(bytes)
    }

    /// `UDP_GRO`: the length of each datagram in what was received, or `None` if the first
    /// `len` bytes hold no such message. The kernel reports an `int` (`net/ipv4/udp.c`).
    pub(super) fn gro_size(&self, len: usize) -> Option<usize> {
        let int = |at: usize| {
            let bytes = self.0.get(at..at + size_of::<libc::c_int>())?;
            Some(libc::c_int::from_ne_bytes(bytes.try_into().ok()?))
        };
        let has_message = len >= HEADER_LEN + size_of::<libc::c_int>();
        if !has_message || int(LEVEL)? != libc::SOL_UDP || int(TYPE)? != libc::UDP_GRO {
            return None;
        }
        let gro_size = usize::try_from(int(HEADER_LEN)?).ok()?;
        (1..=MAX_PACKET_LEN).contains(&gro_size).then_some(gro_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_message_has_the_bytes_the_kernel_reads() {
        let cmsg = Cmsg::udp_segment(1472).0;
        assert_eq!(usize::from_ne_bytes(cmsg[..LEVEL].try_into().unwrap()), HEADER_LEN + 2);
        assert_eq!(cmsg[LEVEL..TYPE], 17_i32.to_ne_bytes());
        assert_eq!(cmsg[TYPE..HEADER_LEN], 103_i32.to_ne_bytes());
        assert_eq!(cmsg[HEADER_LEN..HEADER_LEN + 2], 1472_u16.to_ne_bytes());
    }

    #[test]
    fn gro_size_is_read_only_from_its_own_message() {
        let mut cmsg = Cmsg::udp_segment(0);
        cmsg.0[TYPE..HEADER_LEN].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        cmsg.0[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&1472_i32.to_ne_bytes());
        assert_eq!(cmsg.gro_size(CMSG_LEN), Some(1472));
        assert_eq!(cmsg.gro_size(HEADER_LEN), None);
        assert_eq!(cmsg.gro_size(0), None);
        cmsg.0[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(cmsg.gro_size(CMSG_LEN), None);
        assert_eq!(Cmsg::udp_segment(1472).gro_size(CMSG_LEN), None);
    }
}
