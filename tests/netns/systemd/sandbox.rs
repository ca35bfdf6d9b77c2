//! [`Sandbox`]: the restrictions of `dist/flanneld.service`, applied by bubblewrap.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use twill::lab::host::command::Tool;

use super::syscall_filter::SyscallFilter;

const UNIT: &str = include_str!("../../../dist/flanneld.service");

/// The program's path in the sandbox, whose `/tmp`, where a build may be, is another one.
pub(super) const PROGRAM: &str = "/tmp/program";

/// The restrictions of a program that runs under the unit.
pub(super) struct Sandbox {
    /// bwrap's arguments.
    args: Vec<String>,
    filter: NamedTempFile,
}

impl Sandbox {
    /// The unit's restrictions, with `dir` for its `RuntimeDirectory=`.
    ///
    /// Panics on an unknown directive, since each restriction of the unit must be tested.
    pub(super) fn of_unit(dir: &Path) -> Self {
        let mut args = Args::default();
        let mut filter = SyscallFilter::default();
        for (key, value) in service_directives() {
            match key {
                // How the service is run, not what it may do.
                "Type"
                | "Environment"
                | "EnvironmentFile"
                | "TimeoutStartSec"
                | "WatchdogSec"
                | "Restart"
                | "RestartSec"
                | "RuntimeDirectoryPreserve" => {}
                "ExecStart" | "ExecStartPost" => {}
                // Its plus lifts all restrictions, as for what runs before the sandbox.
                "ExecStartPre" => {
                    let command = value.strip_prefix('+').unwrap();
                    Tool::new("sh").arg("-c").arg(command).run().unwrap();
                }

                "ProtectSystem" => args.add(&[&["--ro-bind", "/", "/"]]),
                "RuntimeDirectory" => args.writable(dir),
                "StateDirectory" => {} // nothing is written there unless flags say so
                "ReadWritePaths" => args.writable(Path::new(value.trim_start_matches('-'))),
                "ProtectHome" => args.hide(&["/home", "/root", "/run/user"]),
                "PrivateTmp" => args.hide(&["/tmp", "/var/tmp"]),
                "ProtectKernelModules" => args.hide(&["/usr/lib/modules"]),

                "DevicePolicy" => args.add(&[&["--dev", "/dev"]]),
                "DeviceAllow" => {
                    let node = value.split(' ').next().unwrap();
                    args.add(&[&["--dev-bind", node, node]]);
                }

                "CapabilityBoundingSet" => {
                    args.add(&[&["--cap-drop", "ALL"]]);
                    value.split(' ').for_each(|cap| args.add(&[&["--cap-add", cap]]));
                }
                // bwrap sets all sets alike, as the unit does.
                "AmbientCapabilities" => {}
                "NoNewPrivileges" => {} // bwrap always sets it

                "SystemCallFilter" => filter.apply(value),
                "SystemCallErrorNumber" => assert_eq!(value, "EPERM"),
                "SystemCallArchitectures" => assert_eq!(value, "native"),
                "RestrictAddressFamilies" => filter.only_families(value),
                "RestrictNamespaces" => filter.no_namespaces(),
                "MemoryDenyWriteExecute" => filter.no_writable_code(),
                "ProtectHostname" => args.add(&[&["--unshare-uts"]]),
                "RestrictRealtime" => filter.deny(&["sched_setscheduler", "sched_setattr"]),
                "LockPersonality" => filter.deny(&["personality"]),
                "RestrictSUIDSGID" => {} // flanneld changes no file's mode to such

                // Follow from the capabilities, the read-only root, and the bare /dev.
                "ProtectClock"
                | "ProtectControlGroups"
                | "ProtectKernelLogs"
                | "ProtectKernelTunables" => {}
                // Needs a /proc of its own; flanneld looks at no other process.
                "ProtectProc" => {}
                _ => panic!("flanneld.service has {key}=, which the sandbox does not know"),
            }
        }
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), filter.program()).unwrap();
        Self { args: args.in_order(), filter: file }
    }

    /// A shell's command that runs [`PROGRAM`], which is `program` outside, in the sandbox.
    pub(super) fn command_line(&self, program: &Path) -> String {
        format!(
            "bwrap --die-with-parent {} --ro-bind {} {PROGRAM} --seccomp 9 9<{}",
            self.args.join(" "),
            program.display(),
            self.filter.path().display()
        )
    }

    /// A tool that runs its arguments as a command in the sandbox, with a network of its own.
    pub(super) fn tool(&self, program: &Path) -> Tool {
        let script = format!("exec {} \"$@\"", self.command_line(program));
        Tool::new("unshare").words("--net sh -c").arg(script).arg("sh")
    }
}

/// The lines of the unit's `[Service]` section, in order.
fn service_directives() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, rest) = UNIT.split_once("[Service]\n").unwrap();
    let (section, _) = rest.split_once("\n[").unwrap();
    let lines = section.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').unwrap())
}

/// bwrap mounts in the order of its arguments: what covers more comes first.
#[derive(Default)]
struct Args {
    others: Vec<String>,
    hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl Args {
    fn add(&mut self, args: &[&[&str]]) {
        self.others.extend(args.concat().into_iter().map(str::to_owned));
    }

    fn hide(&mut self, dirs: &[&str]) {
        self.hidden.extend(dirs.iter().map(PathBuf::from).filter(|dir| dir.is_dir()));
    }

    fn writable(&mut self, path: &Path) {
        self.writable.push(path.to_owned());
    }

    fn in_order(self) -> Vec<String> {
        let Self { others: mut args, hidden, writable } = self;
        assert!(args.starts_with(&["--ro-bind".to_owned()]), "ProtectSystem= must come first");
        for dir in hidden {
            args.extend(["--tmpfs".to_owned(), dir.display().to_string()]);
        }
        for path in writable {
            let path = path.display().to_string();
            args.extend(["--bind-try".to_owned(), path.clone(), path]);
        }
        args
    }
}
