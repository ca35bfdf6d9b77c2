//! The outer addresses and ports of a flow.

use std::net::SocketAddrV4;

use crate::dataplane::packet::headers::protocol;

/// Number of source ports that the flows of one class share. With 8, a few busy flows seldom share
/// a port, and the small packets of many flows still share send calls.
pub(crate) const PORTS_PER_CLASS: u8 = 8;

/// A part of the traffic that has source ports and workers of its own, so that it does not queue
/// behind the other (docs/adr/0036). A flow, fragments included, never changes its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficClass {
    /// TCP: most of the bytes of most hosts. Its source ports are odd.
    Tcp,
    /// Everything else. Its source ports are even.
    Other,
}

impl TrafficClass {
    /// The class of packets of this IP protocol.
    pub const fn of(ip_protocol: u8) -> Self {
        if ip_protocol == protocol::TCP { Self::Tcp } else { Self::Other }
    }

    /// The class whose datagrams have this outer source port.
    pub(crate) const fn of_source_port(port: u16) -> Self {
        if port % 2 == 1 { Self::Tcp } else { Self::Other }
    }
}

/// The outer addresses and ports that all packets of an inner flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayFlow {
    /// The peer's public IP and port.
    pub dst: SocketAddrV4,
    /// The sending socket: 0 has the network's own port, the others have ports that
    /// the kernel chose: those of TCP first.
    pub source: u8,
}

impl UnderlayFlow {
    /// The flow to `dst` from the network's own port.
    pub const fn shared(dst: SocketAddrV4) -> Self {
        Self { dst, source: 0 }
    }

    /// The flow to `dst` of packets of `class` whose inner flow has this hash.
    pub const fn spread(dst: SocketAddrV4, class: TrafficClass, hash: u8) -> Self {
        let first = match class {
            TrafficClass::Tcp => 1,
            TrafficClass::Other => 1 + PORTS_PER_CLASS,
        };
        Self { dst, source: first + hash % PORTS_PER_CLASS }
    }
}
