//! The overlay's device: one queue of a multi-queue TUN for each worker.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use crate::dataplane::offload::Offloads;
use crate::dataplane::offload::refusals::Refused;
use crate::dataplane::packet::headers::{ipv4, ipv4_at};
use crate::dataplane::packet::vnet_hdr::{VNET_HDR_LEN, VnetHdr};

mod open;

pub use open::{TunConfig, TunError};

/// A TUN queue as a worker sees it. No call here blocks.
pub trait TunQueue: Debug + Send {
    /// Reads one packet or superpacket to the start of `buffer` and returns its length.
    ///
    /// # Errors
    /// `WouldBlock` when no packet is queued; otherwise what the device reports.
    fn read(&self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)>;

    /// Writes one packet or superpacket. `pieces[0]` is its encoded vnet header, which a queue without
    /// such headers skips; the other pieces are the packet's bytes.
    ///
    /// # Errors
    /// What the device reports; the packet is then lost.
    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// Sends a packet made by this node to the host or to a pod behind it.
    ///
    /// # Errors
    /// What the kernel reports; the packet is then lost.
    fn inject_local(&self, packet: &[u8]) -> io::Result<()>;

    /// Which superpackets may be written.
    fn offloads(&self) -> Offloads;

    /// Which offloads were asked for and refused.
    fn refused(&self) -> Refused {
        Refused::default()
    }
}

/// Whether the TUN device behind a queue no longer exists: `tun_chr_read_iter` and
/// `tun_chr_write_iter` in drivers/net/tun.c say EBADFD then.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::EFAULT))
}

/// The TUN device: its name and its queues. It lives as long as a queue is open.
#[derive(Debug)]
pub struct TunDevice {
    /// The name the kernel gave, such as `flannel0`.
    pub name: String,
    /// Its queues.
    pub(crate) queues: Vec<KernelTun>,
}

/// One queue of a kernel TUN device.
#[derive(Debug)]
pub struct KernelTun {
    file: File,
    /// Sends packets made by this node; shared by all queues. `None` if the kernel refused it.
    raw: Option<Arc<Socket>>,
    /// Whether packets carry a vnet header.
    vnet_hdr: bool,
    /// Which superpackets are read and may be written.
    offloads: Offloads,
    refused: Refused,
}

impl TunQueue for KernelTun {
    fn read(&self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        if !self.vnet_hdr {
            return Ok((VnetHdr::default(), (&self.file).read(buffer)?));
        }
        let mut header = [0; VNET_HDR_LEN];
        let mut room = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let len = (&self.file).read_vectored(&mut room)?;
        let header = VnetHdr::decode(header);
        let header = header.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok((header, len.saturating_sub(VNET_HDR_LEN)))
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let pieces = if self.vnet_hdr { pieces } else { pieces.get(1..).unwrap_or_default() };
        (&self.file).write_vectored(pieces).map(drop)
    }

    fn inject_local(&self, packet: &[u8]) -> io::Result<()> {
        let Some(raw) = &self.raw else { return Ok(()) };
        let dst = SocketAddrV4::new(ipv4_at(packet, ipv4::DST), 0);
        raw.send_to(packet, &dst.into()).map(drop)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn refused(&self) -> Refused {
        self.refused
    }
}

impl AsRawFd for KernelTun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
