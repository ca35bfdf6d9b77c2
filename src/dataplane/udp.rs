//! The underlay sockets.

use std::net::SocketAddrV4;

use super::offload::Offloads;

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
        source: std::io::Error,
    },
}

/// One underlay socket of a group that shares an address.
#[derive(Debug)]
pub struct KernelUdp {}

/// Binds `num_sockets` sockets to `addr`, which nobody else may hold.
///
/// # Errors
/// [`UdpError`] naming the address.
pub fn bind_group(
    addr: SocketAddrV4,
    num_sockets: usize,
    offloads: Offloads,
) -> Result<Vec<KernelUdp>, UdpError> {
    let _ = (num_sockets, offloads);
    Err(UdpError::Bind { addr, source: std::io::ErrorKind::Unsupported.into() })
}
