//! Limits that depend on the kernel's release and that no system call reports.

use tracing::info;

use super::udp::MAX_GSO_SEGMENTS;

/// How many datagrams one send may be cut into by the running kernel.
pub(super) fn max_gso_segments() -> usize {
    let release = nix::sys::utsname::uname();
    let release = release.as_ref().ok().and_then(|name| name.release().to_str());
    let num = max_gso_segments_of(release.unwrap_or_default());
    if num < MAX_GSO_SEGMENTS {
        info!(release, num, "GSO batches are limited for this kernel");
    }
    num
}

/// Before 5.16 a kernel compares the length of all segments *and* the UDP header with what
/// `UDP_MAX_SEGMENTS` segments hold, so that it refuses 64 full ones with EINVAL (commit
/// 158390e45612; distributions have backported it, but the release number does not show that). A
/// kernel whose release cannot be read gets the lower limit.
fn max_gso_segments_of(release: &str) -> usize {
    match version(release) {
        Some(version) if version >= (5, 16) => MAX_GSO_SEGMENTS,
        Some(_) | None => MAX_GSO_SEGMENTS - 1,
    }
}

/// The first two numbers of a release such as `5.15.0-91-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|digit: char| !digit.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_16_get_one_datagram_less() {
        for (release, num) in [
            ("5.15.0-91-generic", 63),
            ("5.4.0", 63),
            ("5.10.0-28-amd64", 63),
            ("4.18.0-553.el8_10.x86_64", 63),
            ("5.9", 63),
            ("5.16.0", 64),
            ("5.16-rc1", 64),
            ("5.100.3", 64),
            ("6.1", 64),
            ("6.1.0-18-amd64", 64),
            ("6.12.3+", 64),
            ("10.0.0", 64),
            ("", 63),
            ("6", 63),
            ("linux", 63),
            ("six.one", 63),
            ("6.", 63),
            ("-6.1", 63),
            ("99999999999.1", 63),
        ] {
            assert_eq!(max_gso_segments_of(release), num, "{release:?}");
        }
    }

    #[test]
    fn release_of_the_running_kernel_is_read() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(version(&release).is_some(), "{release:?}");
        assert_eq!(max_gso_segments(), max_gso_segments_of(&release));
    }
}
