//! What a capture of inner packets is asked for, and why there is none.

use std::io;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::dataplane::capture::{Direction, TooManyCaptures};

/// Which packets are wanted, and how much of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Those to and from these peers, named by public IP or by an address of their subnets.
    pub peers: Vec<Ipv4Addr>,
    /// Those with source or destination in one of these.
    pub subnets: Vec<Ipv4Network>,
    /// Those of one direction.
    pub direction: Option<Direction>,
    /// Only those that are dropped.
    pub only_dropped: bool,
    /// Most bytes kept of a packet.
    pub snap_len: usize,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No packet passes through this process.
    #[error(
        "with this backend the kernel carries the packets, so flanneld sees none: tcpdump -ni \
         {device} shows them"
    )]
    KernelForwards {
        /// The overlay device, or the interface.
        device: String,
    },
    /// No lease names this address.
    #[error("{0} is neither a peer's public IP nor in a peer's subnet: flanneld peers lists them")]
    UnknownPeer(Ipv4Addr),
    /// What the kernel carries by itself cannot be seen.
    #[error(
        "the fast path carries packets, and a packet socket, which sees them, is refused: {source}; it \
         takes CAP_NET_RAW, in systemd's unit also AF_PACKET in RestrictAddressFamilies=; --dropped \
         does without"
    )]
    NoPacketSocket {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// As many run already as may.
    #[error(transparent)]
    TooMany(#[from] TooManyCaptures),
}
