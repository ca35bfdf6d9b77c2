//! Sockets with a port of their own, used only to send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use socket2::Socket;

use super::bind::{UdpError, bind, drop_received, new_socket};
use super::{LongDatagrams, options};
use crate::dataplane::io::underlay_flow::{PORTS_PER_CLASS, TrafficClass};

/// Ports tried until there are enough of each class. The kernel takes them at random, so a tenth
/// of this is enough almost always.
const MAX_TRIES: usize = 512;

/// Binds the sockets of all classes to `ip`: those of [`TrafficClass::Tcp`] come first.
///
/// # Errors
/// [`UdpError`] naming the address.
pub(super) fn bind_all(
    ip: Ipv4Addr,
    long_datagrams: LongDatagrams,
) -> Result<Arc<[Socket]>, UdpError> {
    const NUM: usize = PORTS_PER_CLASS as usize;
    let (mut tcp, mut other) = (Vec::new(), Vec::new());
    for number in 0..MAX_TRIES {
        let (socket, class) = bind_one(ip, long_datagrams)?;
        let (wanted, rest) = match class {
            TrafficClass::Tcp => (&mut tcp, &mut other),
            TrafficClass::Other => (&mut other, &mut tcp),
        };
        if wanted.len() < NUM {
            wanted.push(socket);
        } else if number + NUM >= MAX_TRIES {
            // The host has no more ports of the other kind: the receiver takes this for the wrong
            // class, which costs latency only.
            rest.push(socket);
        }
        if tcp.len() == NUM && other.len() == NUM {
            break;
        }
    }
    Ok(tcp.into_iter().chain(other).collect())
}

/// Binds a socket to a port that the kernel chooses, and says of which class it is.
fn bind_one(
    ip: Ipv4Addr,
    long_datagrams: LongDatagrams,
) -> Result<(Socket, TrafficClass), UdpError> {
    let any_port = SocketAddrV4::new(ip, 0);
    let socket = new_socket(any_port)?;
    drop_received(&socket, any_port)?;
    options::grow_buffers(&socket, options::BUFFER_LEN);
    options::discover_path(&socket, long_datagrams);
    bind(&socket, any_port)?;
    let bound =
        socket.local_addr().map_err(|source| UdpError::Socket { addr: any_port, source })?;
    let port = bound.as_socket_ipv4().map_or(0, |addr| addr.port());
    Ok((socket, TrafficClass::of_source_port(port)))
}
