//! What depends on the kernel's release, and no call asks for.

use tracing::info;

use super::udp::MAX_GSO_SEGMENTS;

/// How many datagrams one send may be cut into by the running kernel.
pub(super) fn max_gso_segments() -> usize {
    let release = nix::sys::utsname::uname();
    let release = release.as_ref().ok().and_then(|name| name.release().to_str());
    let num = max_gso_segments_of(release.unwrap_or_default());
    if num < MAX_GSO_SEGMENTS {
        info!(release, num, "runs of datagrams are kept short for this kernel");
    }
    num
}

/// Before 5.16 a kernel compares the length of all segments *and* the UDP header with what
/// `UDP_MAX_SEGMENTS` segments hold, so that it refuses 64 full ones with EINVAL (commit
/// 158390e45612; some of the older ones have it too, which their number does not tell). One that
/// does not say which it is may be one of these.
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
    fn running_kernel_says_which_it_is() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(version(&release).is_some(), "{release:?}");
        assert_eq!(max_gso_segments(), max_gso_segments_of(&release));
    }
}
