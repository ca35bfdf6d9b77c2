//! `setsockopt(2)` with an integer value, for options that `socket2` does not know.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Sets `option` at `level` of `socket` to `value`.
pub(crate) fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let pointer = (&raw const value).cast();
    // SAFETY: `pointer` is to `INT_LEN` initialised bytes of `value`, which outlives the call; the
    // kernel only reads them; the descriptor is open for as long as `socket` is borrowed.
    let status = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, INT_LEN) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
