//! Requirements of the host, checked before the first side effect.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use caps::{CapSet, Capability};

/// What the host lacks, with advice.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// There is no TUN device node.
    #[error(
        "{TUN} is missing: run `modprobe tun`, or in a container pass the device in with \
         `--device {TUN}` or make it with `mknod {TUN} c 10 200`"
    )]
    NoTun,
    /// The node is there, but the kernel's TUN driver is not behind it.
    #[error("{TUN} leads to no TUN driver: run `modprobe tun`, and make the node again")]
    NoTunDriver,
    /// The TUN device node cannot be opened.
    #[error("open {TUN}: run as root, and in a container pass the device in with `--device {TUN}`")]
    OpenTun(#[source] io::Error),
    /// The process must not change the network.
    #[error(
        "CAP_NET_ADMIN is missing: run as root, with `AmbientCapabilities=CAP_NET_ADMIN` in the \
         systemd unit, or in a container with `--cap-add NET_ADMIN`"
    )]
    NoNetAdmin,
    /// The capabilities cannot be read.
    #[error("read the capabilities of this process")]
    Capabilities(#[source] caps::errors::CapsError),
}

/// The device node that creates TUN devices; kernel `Documentation/networking/tuntap.rst`.
const TUN: &str = "/dev/net/tun";

/// Checks that TUN devices can be made, which the udp backend alone needs. Makes nothing itself:
/// tun-rs would even make a missing device node, which is for the owner of the container to do.
///
/// # Errors
/// [`PreflightError`] with the first thing that is missing.
pub fn check_tun() -> Result<(), PreflightError> {
    check_node(Path::new(TUN))
}

/// Checks that the network may be changed at all.
///
/// # Errors
/// [`PreflightError`] when it may not.
pub fn check_net_admin() -> Result<(), PreflightError> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) => Ok(()),
        Ok(false) => Err(PreflightError::NoNetAdmin),
        Err(error) => Err(PreflightError::Capabilities(error)),
    }
}

/// Opening the node attaches to no device; that takes an ioctl.
fn check_node(path: &Path) -> Result<(), PreflightError> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let is_device = file.and_then(|file| Ok(file.metadata()?.file_type().is_char_device()));
    match is_device {
        Ok(true) => Ok(()),
        Ok(false) => Err(PreflightError::NoTunDriver),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => PreflightError::NoTun,
            Some(libc::ENODEV | libc::ENXIO | libc::EISDIR) => PreflightError::NoTunDriver,
            _ => PreflightError::OpenTun(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_node_is_distinguished_from_one_that_is_no_device_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("tun");
        assert!(matches!(check_node(&node), Err(PreflightError::NoTun)));
        assert!(matches!(check_node(&node.join("net/tun")), Err(PreflightError::NoTun)));
        assert!(!node.exists());
        std::fs::write(&node, "").unwrap();
        assert!(matches!(check_node(&node), Err(PreflightError::NoTunDriver)));
        assert!(matches!(check_node(dir.path()), Err(PreflightError::NoTunDriver)));
        assert!(check_node(Path::new("/dev/null")).is_ok());
    }

    #[test]
    fn messages_tell_what_to_do() {
        assert!(PreflightError::NoTun.to_string().contains("modprobe tun"));
        assert!(PreflightError::NoNetAdmin.to_string().contains("--cap-add NET_ADMIN"));
    }
}
