//! `SIOCGIFHWADDR`: a device's link address (`man 7 netdevice`).

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// `SIOCGIFHWADDR` of `include/uapi/linux/sockios.h`; libc's has another type with musl.
const SIOCGIFHWADDR: libc::Ioctl = 0x8927;

/// The address of a device with Ethernet headers; `None` for one with others or none.
///
/// # Errors
/// What the kernel says: the device is gone.
pub(crate) fn ethernet(device: &str) -> io::Result<Option<[u8; 6]>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: zeros are a valid `ifreq`: an empty name, and an empty address.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the kernel reads and writes the request, which is borrowed for as long as the call
    // takes; its name ends with a zero.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGIFHWADDR, &raw mut request) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel wrote this member of the union.
    let addr = unsafe { request.ifr_ifru.ifru_hwaddr };
    let [a, b, c, d, e, f, ..] = addr.sa_data.map(|byte| byte.to_ne_bytes()[0]);
    Ok((addr.sa_family == libc::ARPHRD_ETHER).then_some([a, b, c, d, e, f]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_no_ethernet_and_a_device_that_is_gone_is_an_error() {
        assert_eq!(ethernet("lo").unwrap(), None);
        assert!(ethernet("no-such-device").is_err());
    }
}
