//! The outer address that reaches a peer.

use std::net::SocketAddrV4;

/// Where datagrams for one subnet are sent: a peer's public IP and the port its `flanneld` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Destination of the outer headers.
    pub addr: SocketAddrV4,
    /// The peer accepts datagrams from any source port, so that each flow may have its own.
    pub any_source_port: bool,
    /// What the peer's kernel takes that ours has sent.
    pub kernel_receive: KernelReceive,
}

/// What of other kernels' packets a node's kernel takes. All else is between workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KernelReceive {
    /// Nothing.
    #[default]
    Nothing,
    /// ICMP, and TCP and UDP with few packets under way.
    Sparse,
    /// The same, and all of TCP.
    All,
}

impl NextHop {
    /// A next hop at `addr` that accepts only the network's port as source port. Stock peers behind a
    /// strict firewall need this.
    pub const fn new(addr: SocketAddrV4) -> Self {
        Self { addr, any_source_port: false, kernel_receive: KernelReceive::Nothing }
    }
}
