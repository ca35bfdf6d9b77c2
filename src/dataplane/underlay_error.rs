//! What the underlay says of datagrams sent earlier.

use std::io;
use std::net::SocketAddrV4;

/// An error that came back about a datagram of ours: an ICMP, or the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayError {
    /// Where the datagram was sent.
    pub to: SocketAddrV4,
    /// It was too long for the path, as with ICMP's "fragmentation needed and DF set" (RFC 1191).
    pub is_too_long: bool,
}

/// Whether a call on the socket may have failed for an earlier datagram's sake. The kernel keeps
/// one such error and gives it to whatever call comes next, whose own datagrams are then neither
/// sent nor lost: `icmp_err_convert` in net/ipv4/icmp.c and `udp_err` in net/ipv4/udp.c.
pub fn may_be_of_another(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(
            libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENOPROTOOPT
                | libc::ECONNREFUSED
                | libc::EMSGSIZE
                | libc::EOPNOTSUPP
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EPROTO
        )
    )
}
