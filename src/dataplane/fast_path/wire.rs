//! Which wires the fast path is for.

use std::io;

use crate::dataplane::io::sys::{ethtool, link_addr};

/// The driver of a pair of devices on one host, of which each gets the other's superpackets whole.
pub const VETH: &str = "veth";

/// What a device must do to take a superpacket with outer headers as it is.
const TUNNEL_SEGMENTATION: &str = "tx-udp_tnl-segmentation";

/// What a wire carries, as far as its device tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// Superpackets of TCP in the overlay's datagrams: the kernel alone is fastest.
    Superpackets,
    /// Frames, which the sockets of the workers merge again before they are forwarded.
    Frames {
        /// Who drives it.
        driver: String,
    },
    /// Packets without an Ethernet header, as those of tunnels and of WireGuard are.
    NoEthernet,
}

/// What the wire behind `device` carries.
///
/// # Errors
/// The device is gone.
pub fn wire(device: &str) -> io::Result<Wire> {
    if ethernet_addr(device)?.is_none() {
        return Ok(Wire::NoEthernet);
    }
    let driver = driver(device)?;
    if driver == VETH && ethtool::has_feature(device, TUNNEL_SEGMENTATION)? {
        return Ok(Wire::Superpackets);
    }
    Ok(Wire::Frames { driver })
}

/// Who drives `device`; empty for a device that nobody does.
///
/// # Errors
/// The device is gone.
pub fn driver(device: &str) -> io::Result<String> {
    match ethtool::driver(device) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(String::new()),
        driver => driver,
    }
}

/// The link address of `device`; `None` if its packets have no Ethernet header.
///
/// # Errors
/// The device is gone.
pub fn ethernet_addr(device: &str) -> io::Result<Option<[u8; 6]>> {
    link_addr::ethernet(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_ethernet_header_of_its_own() {
        assert_eq!(wire("lo").unwrap(), Wire::NoEthernet);
        assert!(wire("no-such-device").is_err());
    }
}
