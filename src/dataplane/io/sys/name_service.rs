//! `__nss_configure_lookup` of glibc's `<nss.h>`: where a static program looks names of hosts up.

use std::io;

/// Has a static program look names of hosts up in `/etc/hosts` and at the name servers of
/// `/etc/resolv.conf`, whatever `nsswitch.conf` says. Others do as `nsswitch.conf` says.
///
/// glibc loads all other sources of names (`resolve`, `mdns4`, `myhostname`) as shared libraries, and with
/// them the host's C library. If that has another version than the one in the program, the program crashes.
///
/// # Errors
/// No memory is left.
pub fn use_built_in_sources() -> io::Result<()> {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        // SAFETY: both are strings that end with a zero, which the call only reads. It is glibc's own
        // symbol, with the type of its header.
        let status = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
unsafe extern "C" {
    fn __nss_configure_lookup(
        database: *const libc::c_char,
        sources: *const libc::c_char,
    ) -> libc::c_int;
}
