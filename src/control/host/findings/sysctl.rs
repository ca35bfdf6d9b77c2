//! Settings of the kernel.

use std::fs;
use std::path::Path;

/// The value of a setting in the form of sysctl(8): a dot in a link's name is a slash there.
pub fn sysctl(name: &str) -> Option<String> {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    let path = Path::new("/proc/sys").join(swapped.collect::<String>());
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_their_names() {
        assert!(sysctl("kernel.osrelease").is_some_and(|release| !release.is_empty()));
        assert_eq!(sysctl("net.ipv4.conf.no/such.forwarding"), None);
        assert!(sysctl("net.ipv4.conf.lo.forwarding").is_some());
    }
}
