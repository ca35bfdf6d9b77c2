//! Whether another flanneld works on this host's network.

use std::fs;
use std::path::Path;

/// The pid of a flanneld that is not us, in our network namespace.
pub(super) fn other_flanneld() -> Option<u32> {
    let ours = fs::read_link("/proc/self/ns/net").ok()?;
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        *pid != std::process::id()
            && fs::read(process.join("comm")).is_ok_and(|name| name == b"flanneld\n")
            && fs::read_link(process.join("ns/net")).is_ok_and(|net| net == ours)
    })
}
