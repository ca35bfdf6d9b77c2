//! Socket options that `socket2` does not know: `setsockopt(2)` with an integer, and `SO_MEMINFO`.

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

/// Words of `SO_MEMINFO`, of which the last, `SK_MEMINFO_DROPS`, counts what the socket dropped
/// (include/uapi/linux/sock_diag.h).
const MEMINFO_WORDS: usize = 9;

/// How many datagrams `socket` has dropped so far, modulo 2³².
///
/// # Errors
/// The kernel is older than 4.12, which had no such option.
pub(crate) fn num_dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0_u32; MEMINFO_WORDS];
    #[expect(clippy::cast_possible_truncation, reason = "36 bytes")]
    let mut len = size_of_val(&words) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
    let pointer = words.as_mut_ptr().cast();
    // SAFETY: `pointer` is to `len` writable bytes of `words`, to which any bytes may be written, and
    // both outlive the call; the descriptor is open for as long as `socket` is borrowed.
    let status =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, pointer, &raw mut len) };
    let [.., dropped] = words;
    if status == 0 { Ok(dropped) } else { Err(io::Error::last_os_error()) }
}
