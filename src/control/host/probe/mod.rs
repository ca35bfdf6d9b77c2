//! Questions to other hosts, each for a bounded time: ICMP echo, and a datagram to a port.
//!
//! The calls block; callers with many peers ask each on a thread of its own.

mod datagram;
mod echo;
mod inner;
mod path_mtu;

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use self::datagram::{Ends, Port, ask_port};
pub use self::echo::{Echo, Question};
pub use self::inner::{echo_packet, vxlan_packet};
pub use self::path_mtu::longest;

/// Length of the headers of an ICMP echo: IPv4 without options 20, ICMP 8.
pub const ECHO_HEADERS_LEN: u16 = 28;

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// This process may not send ICMP.
    #[error(
        "this user may not send ICMP echo: run it as root, or with CAP_NET_RAW, or let the user's \
         group with `sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`"
    )]
    NotAllowed,
    /// The socket cannot be made.
    #[error("open a socket for ICMP")]
    Open(#[source] io::Error),
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An echo reply.
    Reply {
        /// From the request to the reply.
        time: Duration,
    },
    /// An ICMP error.
    Refused {
        /// Who sent it.
        by: Ipv4Addr,
        /// What it says.
        error: IcmpError,
    },
    /// This host did not send it.
    NotSent(SendFault),
    /// Nothing, for as long as the question allowed.
    Silence,
}

/// What an ICMP error says: RFC 792.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// Type 3, with its code.
    Unreachable(u8),
    /// Type 11: the TTL was used up.
    TimeExceeded,
}

/// Why this host did not send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendFault {
    /// It is longer than the MTU.
    TooLong,
    /// No route leads there.
    NoRoute,
    /// A rule of this host's firewall forbids it.
    Forbidden,
    /// What else the kernel said.
    Other(String),
}

impl Answer {
    /// Whether it is a reply.
    pub const fn is_reply(&self) -> bool {
        matches!(self, Self::Reply { .. })
    }
}

impl IcmpError {
    /// Of an ICMP message's type and code; `None` for what is no error.
    const fn of(kind: u8, code: u8) -> Option<Self> {
        match kind {
            3 => Some(Self::Unreachable(code)),
            11 => Some(Self::TimeExceeded),
            _ => None,
        }
    }

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::TimeExceeded => "time exceeded",
            Self::Unreachable(0) => "network unreachable",
            Self::Unreachable(1) => "host unreachable",
            Self::Unreachable(2) => "protocol unreachable",
            Self::Unreachable(3) => "port unreachable",
            Self::Unreachable(4) => "fragmentation needed",
            Self::Unreachable(9 | 10 | 13) => "administratively prohibited",
            Self::Unreachable(_) => "destination unreachable",
        }
    }
}

impl SendFault {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Self::TooLong,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL) => Self::NoRoute,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(_) | None => Self::Other(error.to_string()),
        }
    }
}
