//! The underlay: UDP sockets. Each datagram carries one inner packet, without a header of its own.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::{MsgHdr, SockAddr, Socket};

use super::cmsg::SendControl;
use super::recv_batch::RecvBatch;
use super::sys;
use super::underlay_error::UnderlayError;
use super::underlay_flow::{PORTS_PER_CLASS, UnderlayFlow};
use crate::dataplane::offload::Offloads;
use crate::dataplane::offload::refusals::Refused;

mod bind;
mod options;
mod source_ports;
mod steering;

pub use bind::{UdpError, bind_group};

/// Most datagrams in one UDP GSO send that every kernel with UDP GSO (4.18 and later) accepts.
/// `UDP_MAX_SEGMENTS` in `include/linux/udp.h`; kernels since 6.9 accept 128.
pub const MAX_GSO_SEGMENTS: usize = 64;

/// An underlay socket as a worker sees it. No call here blocks.
pub trait UdpSocket: Debug + Send {
    /// Receives buffers into `batch` and returns how many, at least one.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has arrived; otherwise what the socket reports.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends the bytes of `pieces`: as one datagram, or cut into datagrams of `gso_size` bytes of
    /// which the last may be shorter.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; otherwise what the socket reports.
    fn send(
        &self,
        flow: UnderlayFlow,
        gso_size: Option<u16>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<()>;

    /// Sends the bytes of `pieces` as one datagram that this host and routers may fragment.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn send_in_fragments(&self, flow: UnderlayFlow, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// Takes the oldest ICMP error about a datagram sent earlier.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise what the socket reports.
    fn take_error(&self) -> io::Result<UnderlayError>;

    /// Further sockets of which this worker is the one to read the errors.
    fn error_sources(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// How many datagrams the socket has dropped so far because its receive buffer was full, modulo
    /// 2³².
    fn num_overflows(&self) -> u32;

    /// How many datagrams one send may be cut into.
    fn max_segments(&self) -> usize {
        MAX_GSO_SEGMENTS
    }

    /// Whether GSO and GRO are in use on this socket.
    fn offloads(&self) -> Offloads;

    /// Which offloads were asked for and refused.
    fn refused(&self) -> Refused {
        Refused::default()
    }
}

/// What happens to datagrams that are too long for their path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongDatagrams {
    /// They are refused, by this host or with an ICMP from a router, unless they are sent
    /// [in fragments](UdpSocket::send_in_fragments).
    Refused,
    /// They are fragmented: the operator chose an overlay MTU that requires it.
    Fragmented,
}

/// Which sockets of a group receive what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// Any socket any datagrams.
    Together,
    /// The first half of the sockets what comes from the ports of [`TrafficClass::Tcp`] and from the
    /// network's own port, the second half the rest.
    ///
    /// [`TrafficClass::Tcp`]: super::underlay_flow::TrafficClass::Tcp
    ByClass,
}

/// A kernel socket of a group that shares one address (`SO_REUSEPORT`): the kernel gives all
/// datagrams of one source address and port to the same socket.
#[derive(Debug)]
pub struct KernelUdp {
    socket: Socket,
    /// Sockets with ports of their own, used only to send; the whole group shares them.
    sources: Arc<[Socket]>,
    /// Sends datagrams that may be fragmented, from the group's port; the whole group shares it.
    fragments: Arc<Socket>,
    /// Whether this is the socket whose worker reads the errors of `sources`: programs of the fast
    /// path send from their ports, so that no send of a worker reports these errors.
    reads_source_errors: bool,
    max_segments: usize,
    long_datagrams: LongDatagrams,
    offloads: Offloads,
    refused: Refused,
}

impl KernelUdp {
    /// The ports of the group's further sockets for TCP; 0 for one that is not known.
    pub fn source_ports(&self) -> [u16; PORTS_PER_CLASS as usize] {
        let port = |index: usize| {
            let addr = self.sources.get(index)?.local_addr().ok()?;
            addr.as_socket_ipv4().map(|addr| addr.port())
        };
        std::array::from_fn(|index| port(index).unwrap_or(0))
    }

    /// The socket that sends datagrams of `flow`.
    fn socket_of(&self, flow: UnderlayFlow) -> &Socket {
        match flow.source.checked_sub(1) {
            None => &self.socket,
            Some(index) => self.sources.get(usize::from(index)).unwrap_or(&self.socket),
        }
    }
}

impl UdpSocket for KernelUdp {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        sys::recvmmsg::recv(self.socket.as_fd(), batch)
    }

    fn send(
        &self,
        flow: UnderlayFlow,
        gso_size: Option<u16>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let dst = SockAddr::from(flow.dst);
        let socket = self.socket_of(flow);
        let message = MsgHdr::new().with_addr(&dst).with_buffers(pieces);
        match gso_size {
            None => socket.sendmsg(&message, libc::MSG_DONTWAIT)?,
            Some(gso_size) => {
                let control = SendControl::udp_segment(gso_size);
                socket.sendmsg(&message.with_control(&control.0), libc::MSG_DONTWAIT)?
            }
        };
        Ok(())
    }

    fn send_in_fragments(&self, flow: UnderlayFlow, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if self.long_datagrams == LongDatagrams::Fragmented {
            return self.send(flow, None, pieces);
        }
        let dst = SockAddr::from(flow.dst);
        let message = MsgHdr::new().with_addr(&dst).with_buffers(pieces);
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

    fn error_sources(&self) -> Vec<RawFd> {
        let sources = self.sources.iter().filter(|_| self.reads_source_errors);
        sources.map(AsRawFd::as_raw_fd).collect()
    }

    /// Asked for by itself: `SO_RXQ_OVFL` would say it with each datagram, but kernels with hardened
    /// usercopy kill the thread that receives so what a TCP socket on the same machine sent, which a fast
    /// path or a tunnel brought here (`put_cmsg` from an skb of `skbuff_fclone_cache`; Linux 6.18).
    fn num_overflows(&self) -> u32 {
        sys::sockopt::num_dropped(self.socket.as_fd()).unwrap_or(0)
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
