//! The outer address that reaches a peer.

use std::net::SocketAddrV4;

/// Where datagrams for one subnet are sent: a peer's public IP and the port its `flanneld` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Destination of the outer headers.
    pub addr: SocketAddrV4,
}

impl NextHop {
    /// A next hop at `addr`.
    pub const fn new(addr: SocketAddrV4) -> Self {
        Self { addr }
    }
}
