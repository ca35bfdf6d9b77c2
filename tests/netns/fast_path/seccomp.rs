//! Daemons whose kernel refuses calls of `bpf(2)`, as older kernels, containers and units do.

use std::fs;

use tempfile::NamedTempFile;
use twill::lab::network::daemon::Daemon;

use crate::harness::FLANNELD;

/// A filter of system calls: it is there for as long as this value.
pub(super) struct Filter(NamedTempFile);

impl Filter {
    /// Has every call of `bpf(2)` fail with this error, or those with this command alone; as seccomp's
    /// instructions: `include/uapi/linux/filter.h`.
    pub(super) fn new(command: Option<u32>, errno: i32) -> Self {
        const BPF: u32 = if cfg!(target_arch = "aarch64") { 280 } else { 321 };
        const LOAD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 6;
        // Offsets in `struct seccomp_data`.
        const NUMBER: u32 = 0;
        const FIRST_ARGUMENT: u32 = 16;
        let refuse = 0x0005_0000 | errno.unsigned_abs();
        let is_command = match command {
            Some(command) => (JUMP_IF_EQUAL, 0, 1, command),
            None => (JUMP_IF_EQUAL, 0, 0, 0),
        };
        let steps = [
            (LOAD, 0, 0, NUMBER),
            (JUMP_IF_EQUAL, 0, 3, BPF),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            is_command,
            (RETURN, 0, 0, refuse),
            (RETURN, 0, 0, 0x7fff_0000),
        ];
        let bytes = |(code, yes, no, value): (u16, u8, u8, u32)| {
            [&code.to_ne_bytes()[..], &[yes, no], &value.to_ne_bytes()].concat()
        };
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), steps.into_iter().flat_map(bytes).collect::<Vec<u8>>()).unwrap();
        Self(file)
    }

    /// Our daemon under it.
    pub(super) fn daemon(&self) -> Daemon {
        let filtered = format!(
            "exec bwrap --die-with-parent --dev-bind / / --cap-add ALL --seccomp 3 \"$@\" 3<{}",
            self.0.path().display()
        );
        let before = ["-c", &filtered, "sh", FLANNELD].map(str::to_owned).to_vec();
        Daemon { before, ..Daemon::flanneld("/bin/sh") }
    }
}
