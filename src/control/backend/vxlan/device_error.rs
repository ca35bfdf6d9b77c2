//! [`DeviceError`]: why there is no vxlan device, and what to do about it.

use crate::control::backend::BackendError;
use crate::control::host::net::KernelError;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    /// The kernel does not know the kind of device.
    #[error(
        "this kernel has no vxlan: load it with `modprobe vxlan`, or set Backend.Type to udp in \
         the network config of all nodes, which needs no kernel module but tun"
    )]
    NoModule(#[source] KernelError),
    /// The name is taken.
    #[error(
        "{name} is a device of the kind {kind}, not vxlan: delete it with `ip link delete {name}`, \
         or choose another VNI in the network config of all nodes"
    )]
    OtherKind {
        /// The name.
        name: String,
        /// What kind of device has it.
        kind: String,
    },
    /// The kernel wants VNI and port of a device to be its own.
    #[error(
        "another vxlan device has VNI {vni} on the same UDP port (`ip -d link show type vxlan` \
         lists them): delete it, or choose another VNI in the network config of all nodes"
    )]
    VniTaken {
        /// The VNI.
        vni: u32,
        /// What the kernel said.
        #[source]
        source: KernelError,
    },
    /// The kernel's end of the tunnel needs the UDP port.
    #[error(
        "UDP port {port} is taken by another process (ss -ulpn shows by whom): stop that, or change \
         Backend.Port in the network config of all nodes"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// What the kernel said.
        #[source]
        source: KernelError,
    },
    /// The kernel refused something else.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl DeviceError {
    /// What the kernel's answer to the creation of a device with this VNI means.
    pub(super) fn of_creation(vni: u32, error: KernelError) -> Self {
        match error.source.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::NoModule(error),
            Some(libc::EEXIST) => Self::VniTaken { vni, source: error },
            _ => Self::Kernel(error),
        }
    }
}

impl From<DeviceError> for BackendError {
    fn from(error: DeviceError) -> Self {
        Self::Device(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::control::util::error_chain::error_chain;

    fn line(errno: i32) -> String {
        let source = io::Error::from_raw_os_error(errno);
        let error = KernelError::new("create vxlan device flannel.7", source);
        error_chain(&BackendError::from(DeviceError::of_creation(7, error)))
    }

    #[test]
    fn kernel_without_vxlan_names_the_udp_backend_as_the_way_out() {
        let line = line(libc::EOPNOTSUPP);
        assert!(
            line.starts_with("this kernel has no vxlan: load it with `modprobe vxlan`"),
            "{line}"
        );
        assert!(
            line.contains("set Backend.Type to udp in the network config of all nodes"),
            "{line}"
        );
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn taken_vni_says_how_to_find_its_device_and_other_errors_are_the_kernels() {
        let taken = line(libc::EEXIST);
        assert!(taken.contains("another vxlan device has VNI 7"), "{taken}");
        assert!(taken.contains("ip -d link show type vxlan"), "{taken}");
        assert_eq!(
            line(libc::EPERM),
            "create vxlan device flannel.7: Operation not permitted (os error 1)"
        );
    }
}
