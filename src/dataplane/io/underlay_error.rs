//! What the underlay says of datagrams sent earlier.

use std::io;
use std::net::SocketAddrV4;

/// An error that came back about a datagram of ours: an ICMP, or the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayError {
    /// Where the datagram was sent.
    pub to: SocketAddrV4,
    /// It left from a source port of its own, not from the network's.
    pub from_own_port: bool,
    /// It was too long for the path.
    pub too_long: Option<TooLong>,
}

/// What is said of a datagram that was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Length of the longest datagram that the path takes, in bytes, outer headers included; 0 from
    /// a router older than RFC 1191.
    pub outer_mtu: u32,
    /// This host says so: the datagram never left. Otherwise it is an ICMP's word (RFC 1191), which
    /// anybody can forge.
    pub is_local: bool,
    /// The first bytes of the datagram, as far as the ICMP quotes them.
    pub quote: Quote,
}

/// The first bytes of a datagram: an inner IPv4 header without options, and 8 bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    bytes: [u8; Self::LEN],
    len: usize,
}

impl Quote {
    /// Most bytes that are kept.
    pub const LEN: usize = 28;
    /// No bytes.
    pub const EMPTY: Self = Self { bytes: [0; Self::LEN], len: 0 };

    /// The first of `pieces`, which follow each other.
    pub fn of(pieces: &[&[u8]]) -> Self {
        let mut quote = Self::EMPTY;
        for piece in pieces {
            let len = piece.len().min(Self::LEN - quote.len);
            quote.bytes[quote.len..quote.len + len].copy_from_slice(&piece[..len]);
            quote.len += len;
        }
        quote
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether there are all the bytes that are ever kept.
    pub const fn is_full(&self) -> bool {
        self.len == Self::LEN
    }

    /// Whether this quotes the datagram that begins with `sent`, so that its author has seen it.
    pub fn proves(&self, sent: &Self) -> bool {
        self.is_full() && self == sent
    }
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
