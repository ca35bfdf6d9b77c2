//! `TUNSETOFFLOAD`: which superpackets the kernel may hand to a TUN's readers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets the offload mask, `TUN_F_*` of `include/uapi/linux/if_tun.h`. The mask belongs to the
/// device, not to the queue; opening a further queue through `tun-rs` resets it.
pub(crate) fn set(queue: BorrowedFd<'_>, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: this ioctl takes its argument by value and reads no memory of ours; the descriptor
    // is open for as long as `queue` is borrowed.
    let status = unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            libc::TUNSETOFFLOAD as libc::Ioctl,
            libc::c_ulong::from(mask),
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
