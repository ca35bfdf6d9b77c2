//! [`Echo`]: asks a peer for an answer through the overlay.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use crate::dataplane::packet::checksum::Sum;

/// An ICMP echo request (RFC 792), which every kernel answers unless its firewall drops it. The
/// data says where it comes from.
const DATA: &[u8] = b"flanneld: are you there?";

/// Sends echo requests. Nobody reads the answers: the workers count them as packets of the peer.
#[derive(Debug)]
pub(in super::super) struct Echo(Option<Socket>);

impl Echo {
    /// Opens the socket. Without the right to do so no peer is asked.
    pub(in super::super) fn open() -> Self {
        let socket = open(Type::DGRAM).or_else(|_| open(Type::RAW));
        if let Err(error) = &socket {
            debug!(%error, "peers cannot be asked for an answer: no ICMP socket");
        }
        Self(socket.ok())
    }

    /// Sends a request to the overlay address `dst`. Nothing needs to be done about a failure: the
    /// peer stays what it is.
    pub(in super::super) fn ask(&self, dst: Ipv4Addr) {
        if let Some(socket) = &self.0
            && let Err(error) = send(socket, dst)
        {
            debug!(%error, %dst, "cannot send an echo request");
        }
    }
}

fn open(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4))?;
    socket.set_nonblocking(true)?;
    // A raw socket would get a copy of every ICMP of this host. One that is full takes no more.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}

fn send(socket: &Socket, dst: Ipv4Addr) -> io::Result<()> {
    let mut request = [&[8, 0, 0, 0, 0, 0, 0, 1], DATA].concat();
    let checksum = Sum::of(&request).checksum();
    request[2..4].copy_from_slice(&checksum);
    socket.send_to(&request, &SocketAddrV4::new(dst, 0).into()).map(drop)
}
