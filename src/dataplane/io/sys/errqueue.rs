//! `recvmsg(2)` with `MSG_ERRQUEUE`: the ICMP errors about datagrams sent earlier (`ip(7)`,
//! `IP_RECVERR`).

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};

use crate::dataplane::io::underlay_error::{Icmp, Quote, TooLong, UnderlayError};

/// Takes the oldest error from the queue of `socket`.
///
/// # Errors
/// `WouldBlock` when the queue is empty; otherwise what the socket reports.
pub(crate) fn take(socket: BorrowedFd<'_>) -> io::Result<UnderlayError> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    // What the ICMP quotes comes along, from behind the outer UDP header on (`ip_icmp_error` in
    // net/ipv4/ip_sockglue.c).
    let mut quoted = [0; Quote::LEN];
    let mut room = [IoSliceMut::new(&mut quoted)];
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut room, Some(&mut control), flags)?;
    let error = message.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::Ipv4RecvErr(error, sender) = message else { return None };
        Some((error, sender))
    });
    let icmp = error.filter(|(error, _)| error.ee_origin == libc::SO_EE_ORIGIN_ICMP);
    let icmp = icmp.map(|(error, sender)| Icmp {
        kind: error.ee_type,
        code: error.ee_code,
        sender: sender.map_or(Ipv4Addr::UNSPECIFIED, |sender| SockaddrIn::from(sender).ip()),
    });
    let error = error.map(|(error, _)| error);
    let to = message.address.map_or(SocketAddrV4::new([0; 4].into(), 0), SocketAddrV4::from);
    let len = message.bytes.min(Quote::LEN);
    let too_long = error.filter(|error| i32::try_from(error.ee_errno) == Ok(libc::EMSGSIZE));
    let too_long = too_long.map(|error| TooLong {
        outer_mtu: error.ee_info,
        is_local: error.ee_origin == libc::SO_EE_ORIGIN_LOCAL,
        quote: Quote::of(&[&quoted[..len]]),
    });
    Ok(UnderlayError { to, from_own_port: false, too_long, icmp })
}
