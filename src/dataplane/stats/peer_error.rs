//! [`PeerErrors`]: errors about datagrams to a peer, on their way from a worker to control.

use std::net::{Ipv4Addr, SocketAddrV4};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Errors that wait for control; it reads once a second. More are not kept: they come in floods,
/// and the counters count all of them.
const MAX_WAITING: usize = 256;

/// A worker's queue. It is filled without a lock and without an allocation.
#[derive(Debug)]
pub struct PeerErrors {
    sender: Sender<PeerError>,
    receiver: Receiver<PeerError>,
}

/// An error about a datagram to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerError {
    /// Where the datagram was to go.
    pub to: SocketAddrV4,
    /// What happened.
    pub kind: PeerErrorKind,
    /// Who reports it; `None` if that is this host itself.
    pub reporter: Option<Ipv4Addr>,
}

/// What happened to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerErrorKind {
    /// ICMP: no socket has the port.
    PortUnreachable,
    /// ICMP: the host does not answer on its link.
    HostUnreachable,
    /// ICMP: a router has no route.
    NetUnreachable,
    /// ICMP: a firewall rejects it.
    Prohibited,
    /// ICMP: the host knows no UDP.
    ProtocolUnreachable,
    /// This host's kernel refused to send it, with this error number.
    SendRefused(i32),
}

impl PeerErrorKind {
    /// Of an ICMP *destination unreachable* with `code`: RFC 792, RFC 1812 §5.2.7.1.
    pub const fn of_unreachable(code: u8) -> Option<Self> {
        match code {
            0 | 5 | 6 | 11 => Some(Self::NetUnreachable),
            1 | 7 | 8 | 12 => Some(Self::HostUnreachable),
            2 => Some(Self::ProtocolUnreachable),
            3 => Some(Self::PortUnreachable),
            9 | 10 | 13 => Some(Self::Prohibited),
            _ => None,
        }
    }
}

impl Default for PeerErrors {
    fn default() -> Self {
        let (sender, receiver) = bounded(MAX_WAITING);
        Self { sender, receiver }
    }
}

impl PeerErrors {
    /// Reports an error to control, unless too many wait.
    pub fn report(&self, error: PeerError) {
        // It fails only if the queue is full: we have a receiver ourselves.
        let _ = self.sender.try_send(error);
    }

    /// Takes what was reported, oldest first.
    pub fn take(&self) -> impl Iterator<Item = PeerError> {
        self.receiver.try_iter()
    }
}
