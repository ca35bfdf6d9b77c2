//! [`SyscallFilter`]: a unit's system call restrictions as a seccomp program.
//!
//! The instructions are those of classic BPF over `struct seccomp_data`
//! (`include/uapi/linux/filter.h` and `seccomp.h`); systemd.exec(5) says what each directive means.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use twill::lab::host::command::Tool;

/// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`.
const ARCH: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

/// Offsets in `struct seccomp_data`: call number, architecture, low half of an argument.
const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn arg(index: u32) -> u32 {
    16 + 8 * index
}

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY_BIT: u16 = 0x45;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const fn fail(errno: i32) -> u32 {
    0x0005_0000 | errno.cast_unsigned()
}

/// Every `CLONE_NEW*` of `include/uapi/linux/sched.h` that `clone` takes.
const CLONE_NEW: u32 = 0x7e02_0000;

/// Which system calls are allowed.
#[derive(Default)]
pub(super) struct SyscallFilter {
    allowed: BTreeSet<String>,
    /// What decides about one call by its arguments.
    rules: Vec<(&'static str, Vec<Step>)>,
}

type Step = (u16, u8, u8, u32);

impl SyscallFilter {
    /// Applies a `SystemCallFilter=`: the first one lists what is allowed, `~` removes from it.
    pub(super) fn apply(&mut self, value: &str) {
        let calls = |names: &str| names.split(' ').flat_map(expand).collect::<BTreeSet<_>>();
        match value.strip_prefix('~') {
            Some(names) => {
                let taken = calls(names);
                self.allowed.retain(|call| !taken.contains(call));
            }
            None => self.allowed.extend(calls(value)),
        }
        // Always allowed, says systemd.exec(5).
        self.allowed.extend(expand("@default"));
    }

    /// Denies calls whatever their arguments.
    pub(super) fn deny(&mut self, calls: &[&'static str]) {
        let rule = || vec![(RETURN, 0, 0, fail(libc::EPERM))];
        self.rules.extend(calls.iter().map(|call| (*call, rule())));
    }

    /// `RestrictAddressFamilies=`.
    pub(super) fn only_families(&mut self, value: &str) {
        let mut steps = vec![(LOAD, 0, 0, arg(0))];
        for family in value.split(' ') {
            let family = match family {
                "AF_UNIX" => libc::AF_UNIX,
                "AF_INET" => libc::AF_INET,
                "AF_INET6" => libc::AF_INET6,
                "AF_NETLINK" => libc::AF_NETLINK,
                "AF_PACKET" => libc::AF_PACKET,
                _ => panic!("what is {family}?"),
            };
            steps.extend([(JUMP_IF_EQUAL, 0, 1, family.cast_unsigned()), (RETURN, 0, 0, ALLOW)]);
        }
        steps.push((RETURN, 0, 0, fail(libc::EAFNOSUPPORT)));
        self.rules.push(("socket", steps));
    }

    /// `RestrictNamespaces=true`. `clone3` hides its flags, and callers fall back to `clone`.
    pub(super) fn no_namespaces(&mut self) {
        self.deny(&["unshare", "setns"]);
        self.rules.push(("clone3", vec![(RETURN, 0, 0, fail(libc::ENOSYS))]));
        self.rules.push(("clone", unless_any_bit(0, CLONE_NEW)));
    }

    /// `MemoryDenyWriteExecute=true`.
    pub(super) fn no_writable_code(&mut self) {
        let exec = libc::PROT_EXEC.cast_unsigned();
        let both = exec | libc::PROT_WRITE.cast_unsigned();
        let mmap = vec![
            (LOAD, 0, 0, arg(2)),
            (AND, 0, 0, both),
            (JUMP_IF_EQUAL, 0, 1, both),
            (RETURN, 0, 0, fail(libc::EPERM)),
            (RETURN, 0, 0, ALLOW),
        ];
        self.rules.push(("mmap", mmap));
        self.rules.push(("mprotect", unless_any_bit(2, exec)));
        self.rules.push(("pkey_mprotect", unless_any_bit(2, exec)));
    }

    /// The program, as `seccomp(2)` and bwrap take it.
    pub(super) fn program(&self) -> Vec<u8> {
        let numbers = numbers();
        let mut steps: Vec<Step> = vec![
            (LOAD, 0, 0, ARCHITECTURE),
            (JUMP_IF_EQUAL, 1, 0, ARCH),
            (RETURN, 0, 0, KILL),
            (LOAD, 0, 0, NR),
        ];
        for (call, rule) in &self.rules {
            let len = u8::try_from(rule.len()).unwrap();
            steps.push((JUMP_IF_EQUAL, 0, len, numbers[*call]));
            steps.extend(rule);
        }
        // A group may name calls of other architectures.
        for number in self.allowed.iter().filter_map(|call| numbers.get(call)) {
            steps.extend([(JUMP_IF_EQUAL, 0, 1, *number), (RETURN, 0, 0, ALLOW)]);
        }
        steps.push((RETURN, 0, 0, fail(libc::EPERM)));
        steps.into_iter().flat_map(bytes).collect()
    }
}

fn unless_any_bit(index: u32, bits: u32) -> Vec<Step> {
    vec![
        (LOAD, 0, 0, arg(index)),
        (JUMP_IF_ANY_BIT, 0, 1, bits),
        (RETURN, 0, 0, fail(libc::EPERM)),
        (RETURN, 0, 0, ALLOW),
    ]
}

/// `struct sock_filter`.
fn bytes((code, if_true, if_false, k): Step) -> [u8; 8] {
    let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    [code[0], code[1], if_true, if_false, k[0], k[1], k[2], k[3]]
}

/// The calls of a group such as `@system-service`, or the call itself.
fn expand(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let group = Tool::new("systemd-analyze").words("syscall-filter --no-pager").arg(name).run();
    let group = group.unwrap();
    let lines = group.lines().skip(1).map(str::trim);
    lines.filter(|line| !line.starts_with('#') && !line.is_empty()).flat_map(expand).collect()
}

/// Every system call of this machine, as the C library's header numbers them.
fn numbers() -> BTreeMap<String, u32> {
    let mut cc = Command::new("cc");
    let output = cc.args(["-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]);
    let text = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let numbers = text.lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    numbers.collect()
}
