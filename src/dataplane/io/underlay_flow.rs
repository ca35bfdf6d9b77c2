//! The outer addresses and ports of a flow.

use std::net::SocketAddrV4;

/// Number of sockets with a source port of their own. With 8, a few busy flows seldom share a
/// port, and the small packets of many flows still share send calls.
pub(crate) const NUM_SOURCE_PORTS: u8 = 8;

/// The outer addresses and ports that all packets of an inner flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayFlow {
    /// The peer's public IP and port.
    pub dst: SocketAddrV4,
    /// The sending socket: 0 has the network's own port, the others have ports that
    /// the kernel chose.
    pub source: u8,
}

impl UnderlayFlow {
    /// The flow to `dst` from the network's own port.
    pub const fn shared(dst: SocketAddrV4) -> Self {
        Self { dst, source: 0 }
    }
}
