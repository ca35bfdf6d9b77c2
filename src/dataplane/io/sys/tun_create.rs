//! `TUNSETIFF`: makes a TUN device. `tun-rs` attaches to one that exists, too.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Makes a multi-queue TUN device of this name or template, without packet information, and
/// returns its name with its first queue. A device that exists is EBUSY: `tun_set_iff` in
/// drivers/net/tun.c.
pub(crate) fn exclusive(name: &str, vnet_hdr: bool) -> io::Result<(String, File)> {
    let queue = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let vnet_hdr = if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    let flags =
        libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL | vnet_hdr;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        // The kernel reads the field as bits; the highest of them is one.
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::from_ne_bytes(low_half(flags).to_ne_bytes()),
        },
    };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the ioctl reads and writes one `ifreq`, which `request` is, and it lives until the
    // call returns; the descriptor is open for as long as `queue` lives.
    let status =
        unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok((name.to_string_lossy().into_owned(), queue))
}

/// The 16 bits of `ifr_flags`.
fn low_half(flags: libc::c_int) -> u16 {
    u16::try_from(flags & 0xffff).unwrap_or_default()
}
