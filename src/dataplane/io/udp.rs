//! The underlay: sockets that carry one inner packet per datagram, with no header before it.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4RecvErr;
use socket2::{Domain, MsgHdr, SockAddr, SockFilter, Socket, Type};
use tracing::{info, warn};

use super::cmsg::SendControl;
use super::kernel_release;
use super::recv_batch::RecvBatch;
use super::sys;
use super::underlay_error::UnderlayError;
use crate::dataplane::egress::gso_batch::{MAX_GSO_SEGMENTS, Path};
use crate::dataplane::offload::state::Refused;
use crate::dataplane::offload::{Offload, Offloads};

/// An underlay socket as a worker sees it. Nothing here waits.
pub trait UdpSocket: Debug + Send {
    /// Receives buffers into `batch` and returns how many, at least one.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; otherwise what the socket reports.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends the bytes of `pieces` on `path`: as one datagram, or cut into datagrams of `gso_size`
    /// bytes of which the last may be shorter.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; otherwise what the socket reports.
    fn send(&self, path: Path, gso_size: Option<u16>, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// Sends the bytes of `pieces` to `path` as one datagram, which this host or any on the way may
    /// send on in fragments.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn send_in_fragments(&self, path: Path, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// Takes the oldest ICMP error about a datagram sent earlier.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise what the socket reports.
    fn take_error(&self) -> io::Result<UnderlayError>;

    /// How many datagrams one send may be cut into.
    fn max_segments(&self) -> usize {
        MAX_GSO_SEGMENTS
    }

    /// Which of GSO and GRO this socket does.
    fn offloads(&self) -> Offloads;

    /// Which offloads were asked for and refused.
    fn refused(&self) -> Refused {
        Refused::default()
    }
}

/// Why the underlay sockets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The port is taken, or the address is not ours.
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

/// What becomes of datagrams that are longer than their path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongDatagrams {
    /// They are refused, here or with an ICMP by whichever router notices, unless they are sent
    /// again [in fragments](UdpSocket::send_in_fragments).
    Refused,
    /// They are fragmented, which the operator chose with an overlay MTU that needs it.
    Fragmented,
}

/// A kernel socket of a group that shares one address (`SO_REUSEPORT`): the kernel gives all
/// datagrams of one peer to the same socket.
#[derive(Debug)]
pub struct KernelUdp {
    socket: Socket,
    /// Sockets with ports of their own, only to send from; the whole group shares them.
    sources: Arc<[Socket]>,
    /// Sends, from the group's port, what may be fragmented; the whole group shares it.
    fragments: Arc<Socket>,
    max_segments: usize,
    long_datagrams: LongDatagrams,
    /// Whether sends may be cut by the kernel, and received datagrams may come in rows.
    offloads: Offloads,
    refused: Refused,
}

/// Further source ports of a node: enough that a few busy flows seldom share one, few enough that
/// small packets of many flows still leave together.
pub(crate) const NUM_SOURCE_PORTS: u8 = 8;

/// A classic BPF program of one instruction, `ret 0`: keep no byte of any datagram
/// (Documentation/networking/filter.rst).
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// Bytes asked for in each direction: some 60 rows of datagrams, enough to ride out a
/// scheduling delay of a few milliseconds at 10 Gb/s.
const SOCKET_BUFFER_LEN: libc::c_int = 4 << 20;

/// Binds `num_sockets` sockets to `addr`, which nobody else may hold.
///
/// # Errors
/// [`UdpError`] naming the address.
pub fn bind_group(
    addr: SocketAddrV4,
    num_sockets: usize,
    offloads: Offloads,
    long_datagrams: LongDatagrams,
) -> Result<Vec<KernelUdp>, UdpError> {
    // A group lets further sockets of the same user in, so a second flanneld would silently take
    // part of our traffic: first see that the address is free.
    let probe = new_socket(addr)?;
    bind(&probe, addr)?;
    drop(probe);

    let fragments = bind_fragments(addr)?;
    let sources = bind_sources(addr, long_datagrams)?;
    let max_segments = kernel_release::max_gso_segments();
    let mut group = Vec::with_capacity(num_sockets);
    for index in 0..num_sockets {
        let socket = new_socket(addr)?;
        share_port(&socket, addr, true)?;
        socket.set_reuse_port(true).map_err(|source| UdpError::Socket { addr, source })?;
        grow_buffers(&socket, SOCKET_BUFFER_LEN);
        report_overflows(&socket);
        discover_path(&socket, long_datagrams);
        let (offloads, refused) = negotiate(offloads, &socket, index == 0);
        bind(&socket, addr)?;
        let (sources, fragments) = (Arc::clone(&sources), Arc::clone(&fragments));
        group.push(KernelUdp {
            socket,
            sources,
            fragments,
            max_segments,
            long_datagrams,
            offloads,
            refused,
        });
    }
    // All that were to have the port have it.
    for socket in group.iter().map(|udp| &udp.socket).chain([&*fragments]) {
        share_port(socket, addr, false)?;
    }
    Ok(group)
}

/// A socket on the group's own port whose datagrams any router may fragment. No
/// control message asks for that in a single send, and to set and reset it on a socket that others
/// send by would let theirs go without DF.
///
/// It is bound before the group, so it receives nothing: of sockets with one address the kernel
/// takes the one bound last (`udp_lib_get_port` and `udp4_lib_lookup2` in net/ipv4/udp.c).
fn bind_fragments(addr: SocketAddrV4) -> Result<Arc<Socket>, UdpError> {
    let socket = new_socket(addr)?;
    let refused = |source| UdpError::Socket { addr, source };
    share_port(&socket, addr, true)?;
    socket.attach_filter(&[DROP_ALL]).map_err(refused)?;
    grow_buffers(&socket, SOCKET_BUFFER_LEN);
    if let Err(error) = set_discovery(&socket, libc::IP_PMTUDISC_DONT) {
        warn!(%error, "datagrams that are too long for a path may be lost");
    }
    bind(&socket, addr)?;
    Ok(Arc::new(socket))
}

/// Lets further sockets bind to the port of `socket` (`SO_REUSEADDR`), or no more. The kernel looks
/// at it only then.
fn share_port(socket: &Socket, addr: SocketAddrV4, on: bool) -> Result<(), UdpError> {
    socket.set_reuse_address(on).map_err(|source| UdpError::Socket { addr, source })
}

/// Sockets with ports that the kernel picks. They receive nothing: a filter drops whatever comes.
fn bind_sources(
    addr: SocketAddrV4,
    long_datagrams: LongDatagrams,
) -> Result<Arc<[Socket]>, UdpError> {
    let any_port = SocketAddrV4::new(*addr.ip(), 0);
    let make = |_| {
        let socket = new_socket(any_port)?;
        let refused = |source| UdpError::Socket { addr: any_port, source };
        socket.attach_filter(&[DROP_ALL]).map_err(refused)?;
        grow_buffers(&socket, SOCKET_BUFFER_LEN);
        discover_path(&socket, long_datagrams);
        bind(&socket, any_port)?;
        Ok(socket)
    };
    (0..NUM_SOURCE_PORTS).map(make).collect()
}

fn new_socket(addr: SocketAddrV4) -> Result<Socket, UdpError> {
    let make = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    make().map_err(|source| UdpError::Socket { addr, source })
}

fn bind(socket: &Socket, addr: SocketAddrV4) -> Result<(), UdpError> {
    socket.bind(&addr.into()).map_err(|source| UdpError::Bind { addr, source })
}

/// Asks for buffers of `len` bytes: past the system's limit if we may, else as far as it goes. A
/// refusal costs throughput under load, never correctness.
fn grow_buffers(socket: &Socket, len: libc::c_int) {
    for (force, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        let set = |option| sys::sockopt::set_int(socket.as_fd(), libc::SOL_SOCKET, option, len);
        if let Err(error) = set(force).or_else(|_| set(plain)) {
            warn!(%error, "UDP socket keeps its default buffer size");
        }
    }
}

/// Has the kernel tell how many datagrams it dropped for want of room.
fn report_overflows(socket: &Socket) {
    let (level, option) = (libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
    if let Err(error) = sys::sockopt::set_int(socket.as_fd(), level, option, 1) {
        warn!(%error, "overflows of the UDP receive queue will not be counted");
    }
}

/// Has the kernel keep the ICMP errors that come back, which it otherwise withholds from sockets
/// that are not connected, and forbid fragments if long datagrams are to be refused.
///
/// The kernel's default (`IP_PMTUDISC_WANT`) sets DF on single datagrams, not on those of a GSO
/// send, and fragments without a word what is longer than a path that it knows to be narrow. And
/// whatever ICMP it gets it believes for ten minutes: `IP_PMTUDISC_PROBE` sets DF on all datagrams
/// and lets all pass that the link takes, so that `pmtu.rs` alone says what a path takes.
fn discover_path(socket: &Socket, long_datagrams: LongDatagrams) {
    if let Err(error) = setsockopt(socket, Ipv4RecvErr, &true) {
        warn!(%error, "ICMP errors of the underlay will not be noticed");
    }
    if long_datagrams == LongDatagrams::Refused
        && let Err(error) = set_discovery(socket, libc::IP_PMTUDISC_PROBE)
    {
        warn!(%error, "datagrams that are too long for a path will be fragmented");
    }
}

/// Sets `IP_MTU_DISCOVER` (`ip(7)`).
fn set_discovery(socket: &Socket, mode: libc::c_int) -> io::Result<()> {
    sys::sockopt::set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
}

/// Turns on `UDP_GRO` (Linux 5.0) and asks for `UDP_SEGMENT` (Linux 4.18) as far as `asked` says;
/// returns what the kernel took, and what it refused; `log` to say so.
fn negotiate(asked: Offloads, socket: &Socket, log: bool) -> (Offloads, Refused) {
    let (mut taken, mut refused) = (Offloads::OFF, Refused::default());
    // A segment length of 0 is the default and changes nothing.
    for (offload, option, value) in
        [(Offload::Gro, libc::UDP_GRO, 1), (Offload::Gso, libc::UDP_SEGMENT, 0)]
    {
        if !asked.has(offload) {
            continue;
        }
        match sys::sockopt::set_int(socket.as_fd(), libc::SOL_UDP, option, value) {
            Ok(()) => taken.set(offload, true),
            Err(error) => {
                refused = refused.with(offload, &error);
                if log {
                    let offload = offload.name();
                    info!(%error, offload, "kernel refuses it: one datagram a call");
                }
            }
        }
    }
    (taken, refused)
}

impl KernelUdp {
    /// The socket with the source port of `path`.
    fn socket_of(&self, path: Path) -> &Socket {
        match path.source.checked_sub(1) {
            None => &self.socket,
            Some(index) => self.sources.get(usize::from(index)).unwrap_or(&self.socket),
        }
    }
}

impl UdpSocket for KernelUdp {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        sys::recvmmsg::recv(self.socket.as_fd(), batch)
    }

    fn send(&self, path: Path, gso_size: Option<u16>, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let to = SockAddr::from(path.to);
        let socket = self.socket_of(path);
        let message = MsgHdr::new().with_addr(&to).with_buffers(pieces);
        match gso_size {
            None => socket.sendmsg(&message, libc::MSG_DONTWAIT)?,
            Some(gso_size) => {
                let control = SendControl::udp_segment(gso_size);
                socket.sendmsg(&message.with_control(&control.0), libc::MSG_DONTWAIT)?
            }
        };
        Ok(())
    }

    fn send_in_fragments(&self, path: Path, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if self.long_datagrams == LongDatagrams::Fragmented {
            return self.send(path, None, pieces);
        }
        let to = SockAddr::from(path.to);
        let message = MsgHdr::new().with_addr(&to).with_buffers(pieces);
        self.fragments.sendmsg(&message, libc::MSG_DONTWAIT).map(drop)
    }

    fn take_error(&self) -> io::Result<UnderlayError> {
        let own_ports = self.sources.iter().map(|socket| (socket, true));
        for (socket, from_own_port) in std::iter::once((&self.socket, false)).chain(own_ports) {
            match sys::errqueue::take(socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|error| UnderlayError { from_own_port, ..error }),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn max_segments(&self) -> usize {
        self.max_segments
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn refused(&self) -> Refused {
        self.refused
    }
}

impl AsRawFd for KernelUdp {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
