//! An in-memory TUN queue and underlay socket, for tests and benches without a kernel.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};

use super::recv_batch::RecvBatch;
use super::tun::TunQueue;
use super::udp::UdpSocket;
use super::underlay_error::{Quote, TooLong, UnderlayError};
use crate::dataplane::io::underlay_flow::UnderlayFlow;
use crate::dataplane::offload::Offloads;
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;
use crate::dataplane::packet::vnet_hdr::{VNET_HDR_LEN, VnetHdr};

/// A packet or superpacket at the TUN.
pub type TunPacket = (VnetHdr, Bytes);

/// What one send call carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its outer addresses and ports.
    pub flow: UnderlayFlow,
    /// Length of each datagram but the last, if there are several.
    pub gso_size: Option<u16>,
    /// Whether it may be fragmented.
    pub in_fragments: bool,
    /// All datagrams, joined.
    pub bytes: Bytes,
}

impl Sent {
    /// The datagrams as a receiver without GRO sees them.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.gso_size.map_or(self.bytes.len().max(1), usize::from))
    }
}

/// The errors of a device's next calls.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<VecDeque<i32>>>);

impl Refusals {
    /// Makes the next call fail with `errno`.
    pub fn push(&self, errno: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(errno);
    }

    /// Lets the next call pass.
    pub fn pass(&self) {
        self.push(0);
    }

    fn take(&self) -> io::Result<()> {
        let errno = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        errno
            .filter(|errno| *errno != 0)
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

/// The worker's end of a TUN queue.
#[derive(Debug)]
pub struct MemoryTun {
    from_host: Receiver<TunPacket>,
    to_host: Sender<TunPacket>,
    offloads: Offloads,
    refusals: Refusals,
    read_refusals: Refusals,
}

/// The host's end of a TUN queue.
#[derive(Debug)]
pub struct MemoryHost {
    /// What the host routes into the device.
    pub send: Sender<TunPacket>,
    /// What the worker wrote.
    pub written: Receiver<TunPacket>,
    /// Makes writes fail.
    pub refusals: Refusals,
    /// Makes reads fail.
    pub read_refusals: Refusals,
}

/// A TUN queue with these offloads, and its host.
pub fn tun(offloads: Offloads) -> (MemoryTun, MemoryHost) {
    let (send, from_host) = unbounded();
    let (to_host, written) = unbounded();
    let (refusals, read_refusals) = (Refusals::default(), Refusals::default());
    let host = MemoryHost {
        send,
        written,
        refusals: refusals.clone(),
        read_refusals: read_refusals.clone(),
    };
    (MemoryTun { from_host, to_host, offloads, refusals, read_refusals }, host)
}

impl TunQueue for MemoryTun {
    fn read(&self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        self.read_refusals.take()?;
        let (header, packet) = try_recv(&self.from_host)?;
        let len = packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet[..len]);
        Ok((header, len))
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.refusals.take()?;
        let Some((header, packet)) = pieces.split_first() else { return Ok(()) };
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let header = <[u8; VNET_HDR_LEN]>::try_from(&header[..]).map_err(|_| invalid())?;
        let header = VnetHdr::decode(header).map_err(|_| invalid())?;
        self.to_host
            .send((header, join(packet)))
            .map_err(|_| io::Error::from_raw_os_error(libc::EIO))
    }

    fn inject_local(&self, packet: &[u8]) -> io::Result<()> {
        let packet = Bytes::copy_from_slice(packet);
        drop(self.to_host.send((VnetHdr::default(), packet)));
        Ok(())
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

/// The worker's end of an underlay socket.
#[derive(Debug)]
pub struct MemoryUdp {
    incoming: Receiver<(Option<usize>, Bytes)>,
    outgoing: Sender<Sent>,
    errors: Receiver<UnderlayError>,
    send_error: Sender<UnderlayError>,
    path_mtu: Arc<AtomicU32>,
    link_mtu: Arc<AtomicU32>,
    offloads: Offloads,
    refusals: Refusals,
    recv_refusals: Refusals,
}

/// The underlay's end of a socket.
#[derive(Debug)]
pub struct MemoryUnderlay {
    /// What arrives at the socket: the length of each datagram, if GRO joined several.
    pub send: Sender<(Option<usize>, Bytes)>,
    /// What the worker sent.
    pub sent: Receiver<Sent>,
    /// ICMP errors about what was sent.
    pub errors: Sender<UnderlayError>,
    /// The longest datagram that fits every path, in bytes, outer headers included. A longer one that
    /// must not be fragmented causes an ICMP; it is in `sent` nevertheless.
    pub path_mtu: Arc<AtomicU32>,
    /// The longest datagram that fits this host's own link: the kernel refuses longer ones.
    pub link_mtu: Arc<AtomicU32>,
    /// Makes sends fail.
    pub refusals: Refusals,
    /// Makes receive calls fail.
    pub recv_refusals: Refusals,
}

/// A socket with these offloads, and its underlay.
pub fn udp(offloads: Offloads) -> (MemoryUdp, MemoryUnderlay) {
    let (send, incoming) = unbounded();
    let (outgoing, sent) = unbounded();
    let (errors, errors_to_take) = unbounded();
    let [path_mtu, link_mtu] = [(); 2].map(|()| Arc::new(AtomicU32::new(u32::MAX)));
    let (refusals, recv_refusals) = (Refusals::default(), Refusals::default());
    let socket = MemoryUdp {
        incoming,
        outgoing,
        errors: errors_to_take,
        send_error: errors.clone(),
        path_mtu: Arc::clone(&path_mtu),
        link_mtu: Arc::clone(&link_mtu),
        offloads,
        refusals: refusals.clone(),
        recv_refusals: recv_refusals.clone(),
    };
    (socket, MemoryUnderlay { send, sent, errors, path_mtu, link_mtu, refusals, recv_refusals })
}

impl UdpSocket for MemoryUdp {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.recv_refusals.take()?;
        let mut num = 0;
        while num < batch.num_buffers() {
            let (gro_size, bytes) = match try_recv(&self.incoming) {
                Ok(incoming) => incoming,
                Err(_) if num > 0 => break,
                Err(error) => return Err(error),
            };
            let (mut rooms, _) = batch.room();
            if let Some(room) = rooms.nth(num) {
                let len = bytes.len().min(room.len());
                room[..len].copy_from_slice(&bytes[..len]);
                batch.set(num, len, gro_size);
                num += 1;
            }
        }
        Ok(num)
    }

    fn send(
        &self,
        flow: UnderlayFlow,
        gso_size: Option<u16>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<()> {
        self.refusals.take()?;
        let sent = Sent { flow, gso_size, in_fragments: false, bytes: join(pieces) };
        self.pass_links(&sent)?;
        self.outgoing.send(sent).map_err(|_| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    fn send_in_fragments(&self, flow: UnderlayFlow, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.refusals.take()?;
        let sent = Sent { flow, gso_size: None, in_fragments: true, bytes: join(pieces) };
        self.outgoing.send(sent).map_err(|_| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    fn take_error(&self) -> io::Result<UnderlayError> {
        try_recv(&self.errors)
    }

    fn num_overflows(&self) -> u32 {
        0
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

impl MemoryUdp {
    /// Does what the kernel does before a narrow link, and what a router does before another one: it
    /// quotes as much of what it drops as Linux does.
    fn pass_links(&self, sent: &Sent) -> io::Result<()> {
        let [link_mtu, path_mtu] =
            [&self.link_mtu, &self.path_mtu].map(|mtu| mtu.load(Ordering::Relaxed));
        let too_long = |mtu: u32| {
            move |datagram: &&[u8]| {
                datagram.len() as u64 + u64::from(ENCAP_OVERHEAD_V4) > mtu.into()
            }
        };
        if sent.datagrams().any(|datagram| too_long(link_mtu)(&datagram)) {
            if sent.gso_size.is_none() {
                self.complain(sent, link_mtu, true, Quote::EMPTY);
            }
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        for datagram in sent.datagrams().filter(too_long(path_mtu)) {
            self.complain(sent, path_mtu, false, Quote::of(&[datagram]));
            // The kernel returns this error from the next call.
            self.recv_refusals.push(libc::EMSGSIZE);
        }
        Ok(())
    }

    fn complain(&self, sent: &Sent, outer_mtu: u32, is_local: bool, quote: Quote) {
        let UnderlayFlow { dst: to, source } = sent.flow;
        let too_long = Some(TooLong { outer_mtu, is_local, quote });
        // The test may have dropped the receiver.
        let from_own_port = source != 0;
        let _ = self.send_error.send(UnderlayError { to, from_own_port, too_long, icmp: None });
    }
}

fn join(pieces: &[IoSlice<'_>]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        bytes.extend_from_slice(piece);
    }
    bytes.freeze()
}

fn try_recv<M>(channel: &Receiver<M>) -> io::Result<M> {
    channel.try_recv().map_err(|error| match error {
        TryRecvError::Empty => io::ErrorKind::WouldBlock.into(),
        TryRecvError::Disconnected => io::Error::from_raw_os_error(libc::EBADFD),
    })
}
