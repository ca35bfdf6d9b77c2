//! Why the kernel takes no program of ours, and what would change that, in one line.

use std::fs;
use std::io;

use caps::{CapSet, Capability};
use nix::sys::utsname::uname;
use procfs::process::Process;
use tracing::debug;

use crate::control::util::error_chain::error_chain;
use crate::dataplane::fast_path::FastPathError;

/// The first Linux that has all that the programs use.
const FIRST_LINUX: (u32, u32) = (5, 12);

/// What keeps a process from `bpf(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Confinement {
    /// Those that the programs take and the process lacks.
    missing: Vec<&'static str>,
    /// Its capabilities count in a user namespace alone.
    is_in_user_namespace: bool,
    is_filtered_by_seccomp: bool,
    /// `integrity` or `confidentiality`, if the kernel is locked down.
    lockdown: Option<String>,
    /// As `uname -r` says it.
    linux: String,
}

/// What the error says, and what would help.
pub(super) fn advice(error: &FastPathError) -> String {
    // The whole of it holds what the verifier of the kernel says, which is many lines.
    debug!("fast path: {}", error_chain(error));
    let text = match error.errno() {
        Some(errno) => format!("{error}: {}", io::Error::from_raw_os_error(errno)),
        None => error.to_string(),
    };
    match Confinement::of_this_process().help(error) {
        Some(help) => format!("{text}; {help}"),
        None => text,
    }
}

impl Confinement {
    fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let needed =
            [(Capability::CAP_BPF, "CAP_BPF"), (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN")];
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
        let missing = needed.into_iter().filter(|(capability, _)| !has(*capability));
        let status = Process::myself().and_then(|process| process.status()).ok();
        Self {
            missing: missing.map(|(_, name)| name).collect(),
            is_in_user_namespace: !maps_all(&read("/proc/self/uid_map")),
            is_filtered_by_seccomp: status
                .is_some_and(|it| it.seccomp.is_some_and(|mode| mode > 0)),
            lockdown: lockdown(&read("/sys/kernel/security/lockdown")),
            linux: uname()
                .map(|it| it.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    fn help(&self, error: &FastPathError) -> Option<String> {
        let errno = error.errno();
        let is_refused = matches!(errno, Some(libc::EPERM | libc::EACCES));
        if is_refused && !self.missing.is_empty() {
            return Some(format!(
                "it takes {}: in systemd's unit CapabilityBoundingSet= and AmbientCapabilities=, in \
                 a container its capabilities",
                self.missing.join(" and ")
            ));
        }
        if is_refused && self.is_in_user_namespace {
            let text =
                "this is a user namespace, in which CAP_BPF does not count: it takes the host's";
            return Some(text.to_owned());
        }
        if let Some((major, minor)) = self.version().filter(|version| *version < FIRST_LINUX) {
            let (wanted_major, wanted_minor) = FIRST_LINUX;
            return Some(format!(
                "it takes Linux {wanted_major}.{wanted_minor}, this is {major}.{minor}"
            ));
        }
        let help = match (errno, error) {
            (Some(libc::EPERM | libc::EACCES), _) => match &self.lockdown {
                _ if self.is_filtered_by_seccomp => {
                    "a seccomp filter may refuse bpf(2): allow it, in systemd's unit by \
                     SystemCallFilter=bpf"
                        .to_owned()
                }
                Some(mode) => format!(
                    "the kernel is locked down ({mode}): it takes lockdown=none on its command line"
                ),
                None => "SELinux or AppArmor may refuse bpf(2): its log says so".to_owned(),
            },
            (Some(libc::ENOMEM | libc::E2BIG), _) => {
                "it takes memory of the kernel, which the control group limits: MemoryMax= in \
                 systemd's unit"
                    .to_owned()
            }
            (Some(libc::ENOSYS), _) => "it takes a kernel with CONFIG_BPF_SYSCALL".to_owned(),
            (
                Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP),
                FastPathError::Attach { .. },
            ) => "it takes a kernel with sch_ingress and cls_bpf: modprobe them".to_owned(),
            (Some(_) | None, _) => return None,
        };
        Some(help)
    }

    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.linux.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// Whether this is the `uid_map` of the first user namespace, which has all users.
fn maps_all(uid_map: &str) -> bool {
    let numbers: Vec<&str> = uid_map.split_whitespace().collect();
    numbers.is_empty() || numbers == ["0", "0", "4294967295"]
}

/// The mode that is marked in the kernel's file, unless it is `none`.
fn lockdown(file: &str) -> Option<String> {
    let marked = file.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    marked.filter(|mode| *mode != "none").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use aya::programs::ProgramError;

    use super::*;

    fn free() -> Confinement {
        Confinement {
            missing: Vec::new(),
            is_in_user_namespace: false,
            is_filtered_by_seccomp: false,
            lockdown: lockdown("[none] integrity confidentiality\n"),
            linux: "6.1.0-30-amd64".to_owned(),
        }
    }

    fn attach(errno: i32) -> FastPathError {
        let source = ProgramError::IOError(io::Error::from_raw_os_error(errno));
        FastPathError::Attach { name: "fast_ingress", device: "eth0".to_owned(), source }
    }

    fn memory(errno: i32) -> FastPathError {
        FastPathError::Memory(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn each_refusal_says_what_would_help() {
        let locked = lockdown("none integrity [confidentiality]\n");
        let old = || "5.10.0-34-amd64".to_owned();
        for (confinement, error, expected) in [
            (
                Confinement { missing: vec!["CAP_BPF"], ..free() },
                memory(1),
                "it takes CAP_BPF: in sys",
            ),
            (
                Confinement { missing: vec!["CAP_BPF"], linux: old(), ..free() },
                memory(1),
                "CAP_BPF",
            ),
            (Confinement { is_in_user_namespace: true, ..free() }, memory(1), "user namespace"),
            (
                Confinement { is_filtered_by_seccomp: true, ..free() },
                memory(1),
                "SystemCallFilter=bpf",
            ),
            (
                Confinement { lockdown: locked, ..free() },
                memory(1),
                "locked down (confidentiality)",
            ),
            (free(), memory(libc::EACCES), "SELinux"),
            (Confinement { linux: old(), ..free() }, memory(libc::EINVAL), "5.12, this is 5.10"),
            (
                Confinement { linux: "4.18.0-553.el8".to_owned(), ..free() },
                attach(22),
                "this is 4.18",
            ),
            (free(), memory(libc::ENOMEM), "MemoryMax="),
            (free(), memory(libc::ENOSYS), "CONFIG_BPF_SYSCALL"),
            (free(), attach(libc::ENOENT), "cls_bpf"),
        ] {
            let help = confinement.help(&error).unwrap();
            assert!(help.contains(expected), "{confinement:?}, {error}: {help}");
            assert!(!help.contains('\n'), "{help}");
        }
        assert_eq!(free().help(&memory(libc::EINVAL)), None);
        assert_eq!(free().help(&FastPathError::Stopped), None);
    }

    #[test]
    fn user_namespace_is_known_by_its_users() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0          0          1\n"));
        assert!(!maps_all("         0     100000 4294967295\n"));
        assert!(maps_all(""), "a kernel without user namespaces");
    }
}
