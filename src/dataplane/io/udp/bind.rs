//! Binds the underlay sockets of all workers.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;

use socket2::{Domain, SockFilter, Socket, Type};

use tracing::info;

use super::{KernelUdp, LongDatagrams, Steering};
use super::{options, source_ports, steering};
use crate::dataplane::io::kernel_release;
use crate::dataplane::offload::Offloads;

/// Why the underlay sockets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The port is taken, or the address is not this host's.
    #[error("bind UDP socket to {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddrV4,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A socket or one of its options was refused.
    #[error("make UDP socket for {addr}")]
    Socket {
        /// The address asked for.
        addr: SocketAddrV4,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A classic BPF program of one instruction, `ret 0`: keep no byte of any datagram
/// (Documentation/networking/filter.rst).
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// Binds `num_sockets` sockets to `addr`, which no other process may hold. The kernel gives them
/// datagrams as `steered` says.
///
/// # Errors
/// [`UdpError`] naming the address.
pub fn bind_group(
    addr: SocketAddrV4,
    num_sockets: usize,
    steered: Steering,
    offloads: Offloads,
    long_datagrams: LongDatagrams,
) -> Result<Vec<KernelUdp>, UdpError> {
    // The kernel lets any socket of the same user join a group, so a second flanneld would take
    // part of our traffic without an error. Check first that the address is free.
    let probe = new_socket(addr)?;
    bind(&probe, addr)?;
    drop(probe);

    let fragments = bind_fragments(addr)?;
    let sources = source_ports::bind_all(*addr.ip(), long_datagrams)?;
    let max_segments = kernel_release::max_gso_segments();
    let mut group = Vec::with_capacity(num_sockets);
    for index in 0..num_sockets {
        let socket = new_socket(addr)?;
        share_port(&socket, addr, true)?;
        socket.set_reuse_port(true).map_err(|source| UdpError::Socket { addr, source })?;
        options::grow_buffers(&socket, options::BUFFER_LEN);
        options::discover_path(&socket, long_datagrams);
        let (offloads, refused) = options::negotiate(offloads, &socket, index == 0);
        bind(&socket, addr)?;
        let (sources, fragments) = (Arc::clone(&sources), Arc::clone(&fragments));
        group.push(KernelUdp {
            socket,
            sources,
            fragments,
            reads_source_errors: index == 0,
            max_segments,
            long_datagrams,
            offloads,
            refused,
        });
    }
    if steered == Steering::ByClass
        && let Some(first) = group.first()
        && let Err(error) = steering::by_class(&first.socket, addr, num_sockets)
    {
        info!(%error, "kernel refuses to steer datagrams: TCP may delay other traffic");
    }
    // The group is complete: let no further socket join it.
    for socket in group.iter().map(|udp| &udp.socket).chain([&*fragments]) {
        share_port(socket, addr, false)?;
    }
    Ok(group)
}

/// A socket on the group's own port whose datagrams any router may fragment. No control message
/// asks for this in a single send, and toggling it on a shared socket would send other workers'
/// datagrams without DF.
///
/// It is bound before the group, so it receives nothing: of sockets with one address the kernel
/// takes the one bound last (`udp_lib_get_port` and `udp4_lib_lookup2` in net/ipv4/udp.c).
fn bind_fragments(addr: SocketAddrV4) -> Result<Arc<Socket>, UdpError> {
    let socket = new_socket(addr)?;
    share_port(&socket, addr, true)?;
    drop_received(&socket, addr)?;
    options::grow_buffers(&socket, options::BUFFER_LEN);
    options::allow_fragments(&socket);
    bind(&socket, addr)?;
    Ok(Arc::new(socket))
}

pub(super) fn new_socket(addr: SocketAddrV4) -> Result<Socket, UdpError> {
    let make = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    make().map_err(|source| UdpError::Socket { addr, source })
}

pub(super) fn bind(socket: &Socket, addr: SocketAddrV4) -> Result<(), UdpError> {
    socket.bind(&addr.into()).map_err(|source| UdpError::Bind { addr, source })
}

/// Sets `SO_REUSEADDR`: whether other sockets may bind to the port of `socket`. The kernel checks
/// it only when they bind.
fn share_port(socket: &Socket, addr: SocketAddrV4, on: bool) -> Result<(), UdpError> {
    socket.set_reuse_address(on).map_err(|source| UdpError::Socket { addr, source })
}

/// Makes the kernel drop every datagram that arrives at `socket`.
pub(super) fn drop_received(socket: &Socket, addr: SocketAddrV4) -> Result<(), UdpError> {
    socket.attach_filter(&[DROP_ALL]).map_err(|source| UdpError::Socket { addr, source })
}
