//! `recvmsg(2)` with `MSG_ERRQUEUE`: the ICMP errors about datagrams sent earlier (`ip(7)`,
//! `IP_RECVERR`).

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};

use crate::dataplane::underlay_error::UnderlayError;

/// Takes the oldest error from the queue of `socket`.
///
/// # Errors
/// `WouldBlock` when the queue is empty; otherwise what the socket reports.
pub(crate) fn take(socket: BorrowedFd<'_>) -> io::Result<UnderlayError> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    // The datagram itself comes along, cut to the room there is: none.
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut [], Some(&mut control), flags)?;
    let errno = message.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::Ipv4RecvErr(error, _) = message else { return None };
        Some(error.ee_errno)
    });
    let to = message.address.map_or(SocketAddrV4::new([0; 4].into(), 0), SocketAddrV4::from);
    let is_too_long = errno.and_then(|errno| i32::try_from(errno).ok()) == Some(libc::EMSGSIZE);
    Ok(UnderlayError { to, is_too_long })
}
