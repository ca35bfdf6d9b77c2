//! The outer address that reaches a peer.

use std::net::SocketAddrV4;

/// Where datagrams for one subnet are sent: a peer's public IP and the port its `flanneld` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Destination of the outer headers.
    pub addr: SocketAddrV4,
    /// The peer takes datagrams from any source port, so that flows may be told apart by it.
    pub any_source_port: bool,
}

impl NextHop {
    /// A next hop at `addr` that wants the network's port as source port, as a stock peer behind
    /// a strict firewall may.
    pub const fn new(addr: SocketAddrV4) -> Self {
        Self { addr, any_source_port: false }
    }
}
