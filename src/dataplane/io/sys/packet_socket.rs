//! Packet sockets (`packet(7)`): bound to one device, and asked what they lost.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `PACKET_STATISTICS` of `include/uapi/linux/if_packet.h`.
const PACKET_STATISTICS: libc::c_int = 6;

#[expect(clippy::cast_possible_truncation, reason = "small constants")]
const ADDR_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "8 bytes")]
const STATISTICS_LEN: libc::socklen_t = size_of::<[u32; 2]>() as libc::socklen_t;

/// Has `socket` get what the device of this number sends and receives.
///
/// # Errors
/// What the kernel says: the device is gone.
pub(crate) fn bind(socket: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain old data of integers; all zeros is valid for it.
    let mut addr: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    addr.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(too_large)?;
    addr.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(too_large)?.to_be();
    addr.sll_ifindex = libc::c_int::try_from(ifindex).map_err(too_large)?;
    // SAFETY: the pointer is to `ADDR_LEN` initialised bytes of `addr`, which outlives the call; the
    // kernel only reads them; the descriptor is open for as long as `socket` is borrowed.
    let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), ADDR_LEN) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many packets found no room in `socket` since the last call.
pub(crate) fn take_lost(socket: BorrowedFd<'_>) -> u64 {
    // `struct tpacket_stats`: all packets, and those that were dropped.
    let mut statistics = [0_u32; 2];
    let mut len = STATISTICS_LEN;
    // SAFETY: the kernel writes at most `len` bytes to `statistics`, and to `len`, which both outlive
    // the call; the descriptor is open for as long as `socket` is borrowed.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if status == 0 { statistics[1].into() } else { 0 }
}
