//! Errors about datagrams sent earlier.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// An error about a datagram of ours: from an ICMP, or from the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayError {
    /// Destination of the datagram.
    pub to: SocketAddrV4,
    /// It was sent from a port that the kernel chose, not from the network's own port.
    pub from_own_port: bool,
    /// It was too long for the path.
    pub too_long: Option<TooLong>,
    /// The ICMP, unless the kernel itself refused the datagram.
    pub icmp: Option<Icmp>,
}

/// An ICMP about a datagram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Its type: RFC 792.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The host or router that sent it.
    pub sender: Ipv4Addr,
}

/// The path MTU that an error reports, and for which datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Length of the longest datagram that fits the path, in bytes, outer headers included; 0 from a
    /// router older than RFC 1191.
    pub outer_mtu: u32,
    /// This host refused the datagram. Otherwise an ICMP (RFC 1191) reports it, which anyone can
    /// forge.
    pub is_local: bool,
    /// The first bytes of the datagram that the ICMP quotes.
    pub quote: Quote,
}

/// The first bytes of a datagram: an inner IPv4 header without options, and 8 bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    bytes: [u8; Self::LEN],
    len: usize,
}

impl Quote {
    /// Most bytes of a quote.
    pub const LEN: usize = 28;
    /// No bytes.
    pub const EMPTY: Self = Self { bytes: [0; Self::LEN], len: 0 };

    /// The first bytes of `pieces`, joined.
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

    /// Whether the quote has the maximum length.
    pub const fn is_full(&self) -> bool {
        self.len == Self::LEN
    }

    /// Whether this quotes the datagram that begins with `sent`, so that the author of the ICMP has
    /// seen it.
    pub fn proves(&self, sent: &Self) -> bool {
        self.is_full() && self == sent
    }
}

/// Whether a call on the socket may have failed because of an earlier datagram. The kernel keeps one
/// pending error and returns it from the next call, which then sends and receives nothing:
/// `icmp_err_convert` in net/ipv4/icmp.c and `udp_err` in net/ipv4/udp.c.
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
