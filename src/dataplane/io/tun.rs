//! The overlay's device: one queue of a multi-queue TUN for each worker.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tracing::{info, warn};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::sys;
use crate::dataplane::offload::refusals::Refused;
use crate::dataplane::offload::{Offload, Offloads};
use crate::dataplane::packet::headers::{ipv4, ipv4_at};
use crate::dataplane::packet::vnet_hdr::{VNET_HDR_LEN, VnetHdr};

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

/// Settings of the TUN device.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// Name or template; `flannel%d` lets the kernel take the first free number.
    pub name: String,
    /// Queues, one for each worker.
    pub num_queues: usize,
    /// Offloads to ask the kernel for.
    pub offloads: Offloads,
}

/// Why the TUN device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel refused the device.
    #[error("create TUN device {name}")]
    Create {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a queue of the device.
    #[error("open queue {queue} of TUN device {name}")]
    Queue {
        /// The device's name.
        name: String,
        /// Number of the queue.
        queue: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
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

impl TunError {
    /// Whether the name belongs to a device that exists.
    pub fn is_name_taken(&self) -> bool {
        match self {
            Self::Create { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
            Self::Queue { .. } => false,
        }
    }
}

impl TunConfig {
    /// Creates the device, down and without address. An existing device of that name is not changed.
    ///
    /// # Errors
    /// [`TunError`] when the kernel refuses the device or a queue.
    pub fn open(&self) -> Result<TunDevice, TunError> {
        let create = |vnet_hdr| {
            // tun-rs would attach to an existing device. So create a new one first; tun-rs then opens
            // another queue of it, and the first queue is closed.
            let (name, first) = sys::tun_create::exclusive(&self.name, vnet_hdr)?;
            let device = DeviceBuilder::new()
                .name(name)
                .multi_queue(true)
                .offload(vnet_hdr)
                .enable(false)
                .build_sync();
            drop(first);
            device
        };
        let wants_vnet_hdr = self.offloads.tso || self.offloads.uso;
        // The error if the kernel refuses vnet headers (`IFF_VNET_HDR`).
        let mut no_vnet_hdr = None;
        let first = create(wants_vnet_hdr).or_else(|error: io::Error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                return Err(error);
            }
            let plain = create(false)?;
            no_vnet_hdr = Some(error);
            Ok(plain)
        });
        let first = first.map_err(|source| TunError::Create { name: self.name.clone(), source })?;
        let name =
            first.name().map_err(|source| TunError::Create { name: self.name.clone(), source })?;

        let mut devices = vec![first];
        for queue in 1..self.num_queues {
            let opened = devices[0].try_clone();
            let device =
                opened.map_err(|source| TunError::Queue { name: name.clone(), queue, source })?;
            devices.push(device);
        }
        let vnet_hdr = wants_vnet_hdr && no_vnet_hdr.is_none();
        let (offloads, refused) = negotiate(self.offloads, |mask| match &no_vnet_hdr {
            Some(error) => {
                Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EOPNOTSUPP)))
            }
            None => sys::tun_offload::set(devices[0].as_fd(), mask),
        });
        let raw = raw_socket();
        let mut queues = Vec::with_capacity(devices.len());
        for (queue, device) in devices.iter().enumerate() {
            let file = nonblocking_file(device);
            let file =
                file.map_err(|source| TunError::Queue { name: name.clone(), queue, source })?;
            queues.push(KernelTun { file, raw: raw.clone(), vnet_hdr, offloads, refused });
        }
        Ok(TunDevice { name, queues })
    }
}

/// Sets the device's offload mask with `set`; returns whether the kernel accepted TSO and USO, and
/// what it refused.
fn negotiate(asked: Offloads, set: impl Fn(libc::c_uint) -> io::Result<()>) -> (Offloads, Refused) {
    const TSO: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO_ECN;
    // The kernel accepts USO only for both families together (`set_offload` in drivers/net/tun.c).
    const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let Offloads { tso, uso, .. } = asked;
    if !tso && !uso {
        return (Offloads::OFF, Refused::default());
    }
    let (tso_mask, uso_mask) = (if tso { TSO } else { 0 }, if uso { USO } else { 0 });
    let refused = match set(libc::TUN_F_CSUM | tso_mask | uso_mask) {
        Ok(()) => return (Offloads { tso, uso, ..Offloads::OFF }, Refused::default()),
        Err(refused) => refused,
    };
    let no_uso =
        if uso { Refused::default().with(Offload::Uso, &refused) } else { Refused::default() };
    if tso && uso && set(libc::TUN_F_CSUM | TSO).is_ok() {
        info!(error = %refused, "kernel has no UDP superpackets at the TUN: one UDP packet at a time");
        return (Offloads { tso, ..Offloads::OFF }, no_uso);
    }
    info!(error = %refused, "kernel has no superpackets at the TUN: one packet at a time");
    let refused = if tso { no_uso.with(Offload::Tso, &refused) } else { no_uso };
    (Offloads::OFF, refused)
}

/// A raw socket for packets with our own IPv4 headers (`raw(7)`, `IPPROTO_RAW`).
///
/// ICMP errors have the TUN's address as their source. If they were written to the TUN, as stock
/// flannel does, the kernel would receive packets from its own address and drop them as martians
/// (`__fib_validate_source` in net/ipv4/fib_frontend.c). It accepts them from a raw socket.
fn raw_socket() -> Option<Arc<Socket>> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(libc::IPPROTO_RAW.into()))?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    };
    match open() {
        Ok(socket) => Some(Arc::new(socket)),
        Err(error) => {
            warn!(%error, "no raw socket, so no ICMP errors from this node: it lacks CAP_NET_RAW");
            None
        }
    }
}

/// The queue's descriptor, which we read and write without tun-rs.
fn nonblocking_file(device: &SyncDevice) -> io::Result<File> {
    device.set_nonblocking(true)?;
    Ok(File::from(device.as_fd().try_clone_to_owned()?))
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

#[cfg(test)]
mod tests;
