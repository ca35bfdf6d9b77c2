//! `recvmmsg(2)`: several receives in one system call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::dataplane::io::recv_batch::{MAX_BUFFERS, RecvBatch};

#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const NUM_HEADERS: libc::c_uint = MAX_BUFFERS as libc::c_uint;

/// Receives into `batch` without waiting; returns how many buffers were filled, at least one.
///
/// # Errors
/// `WouldBlock` when nothing is there; otherwise what the socket reports.
pub(crate) fn recv(socket: BorrowedFd<'_>, batch: &mut RecvBatch) -> io::Result<usize> {
    let mut iovecs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_BUFFERS];
    // SAFETY: `mmsghdr` is plain old data of integers and pointers; all zeros is valid for it.
    let mut headers: [libc::mmsghdr; MAX_BUFFERS] = unsafe { std::mem::zeroed() };
    let num_headers = libc::c_uint::try_from(batch.num_buffers()).unwrap_or(1).min(NUM_HEADERS);
    let (buffers, controls) = batch.room();
    for (((header, iovec), buffer), control) in
        headers.iter_mut().zip(&mut iovecs).zip(buffers).zip(controls)
    {
        *iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        header.msg_hdr.msg_iov = iovec;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = same(control.0.len());
    }
    // SAFETY: each of the first `num_headers` headers points to one iovec on this stack, to a
    // buffer and to a control buffer inside `batch`, with their true lengths; `batch` is borrowed
    // for the whole call and none of these overlap. No address and no timeout is asked for.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            num_headers,
            same(libc::MSG_DONTWAIT),
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (index, header) in headers.iter().enumerate().take(received) {
        let len = header.msg_len as usize;
        batch.set_received(index, len, same(header.msg_hdr.msg_controllen));
    }
    Ok(received)
}

/// The same small number in the type that the C library has for it: glibc and musl differ.
fn same<T: TryInto<U>, U: Default>(number: T) -> U {
    number.try_into().unwrap_or_default()
}
