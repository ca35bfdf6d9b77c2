//! Creates the TUN device and negotiates its offloads.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tracing::{info, warn};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{KernelTun, TunDevice};
use crate::dataplane::io::sys;
use crate::dataplane::offload::refusals::Refused;
use crate::dataplane::offload::{Offload, Offloads};

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

#[cfg(test)]
mod tests;
