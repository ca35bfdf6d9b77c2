//! Which daemons run on this host, and at which sockets they listen.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::net::{UnixNetEntry, UnixState};
use procfs::process::{FDTarget, Process, all_processes};

use super::ToolError;
use crate::control::cli::tools::is_tool;

/// Where the socket is without any flag.
const DEFAULT: &str = "/run/flannel/flanneld.sock";

/// A running flanneld.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control::cli) struct Daemon {
    pub(in crate::control::cli) pid: i32,
    /// Whether it works in our network namespace.
    pub(in crate::control::cli) is_here: bool,
    /// Where it listens, as we reach it.
    sockets: Vec<PathBuf>,
}

impl Daemon {
    /// Whether it can be asked.
    pub(in crate::control::cli) const fn has_socket(&self) -> bool {
        !self.sockets.is_empty()
    }
}

/// The socket of the one daemon in our network namespace.
///
/// # Errors
/// [`ToolError`] if there is none, or more than one.
pub(super) fn find_socket() -> Result<PathBuf, ToolError> {
    choose(&running())
}

fn choose(daemons: &[Daemon]) -> Result<PathBuf, ToolError> {
    let sockets = |is_here| {
        let daemons = daemons.iter().filter(move |daemon| daemon.is_here == is_here);
        daemons.flat_map(|daemon| &daemon.sockets)
    };
    let shown = |is_here| {
        let shown = sockets(is_here).map(|path| path.display().to_string());
        shown.collect::<Vec<_>>().join(", ")
    };
    let mut here = sockets(true);
    match (here.next(), here.next()) {
        (Some(socket), None) => return Ok(socket.clone()),
        (Some(_), Some(_)) => return Err(ToolError::Several(shown(true))),
        (None, _) => {}
    }
    if let Some(daemon) = daemons.iter().find(|daemon| daemon.is_here) {
        // Its descriptors can only be read by root.
        if Path::new(DEFAULT).exists() {
            return Ok(DEFAULT.into());
        }
        let reason = "has no socket that can be found: it is older, or --socket=none";
        return Err(ToolError::Local(format!("flanneld with pid {} {reason}", daemon.pid)));
    }
    match shown(false).as_str() {
        "" => Ok(DEFAULT.into()),
        _ if Path::new(DEFAULT).exists() => Ok(DEFAULT.into()),
        elsewhere => Err(ToolError::NotRunning(format!(
            "those of other network namespaces are at {elsewhere} (--socket)"
        ))),
    }
}

/// Every running flanneld but ourselves and other tools, as far as we may see.
pub(in crate::control::cli) fn running() -> Vec<Daemon> {
    let Ok(ours) = fs::read_link("/proc/self/ns/net") else { return Vec::new() };
    let own_pid = i32::try_from(std::process::id()).ok();
    let processes = all_processes().into_iter().flatten().flatten();
    let others = processes.filter(|process| Some(process.pid) != own_pid && is_daemon(process));
    let daemon = |process: Process| Daemon {
        pid: process.pid,
        is_here: fs::read_link(format!("/proc/{}/ns/net", process.pid)).is_ok_and(|it| it == ours),
        sockets: sockets(&process).unwrap_or_default(),
    };
    others.map(daemon).collect()
}

fn is_daemon(process: &Process) -> bool {
    // The name may be that of a thread group whose arguments cannot be read any more.
    let name = fs::read_to_string(format!("/proc/{}/comm", process.pid));
    name.is_ok_and(|name| is_name(name.trim_end()))
        && process.cmdline().is_ok_and(|words| !ends_by_itself(words.get(1..).unwrap_or_default()))
}

/// Flannel's releases call it `flanneld-amd64`, and so on.
fn is_name(name: &str) -> bool {
    name.strip_prefix("flanneld").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether `flanneld` with these words is no daemon: a tool, or a flag that prints something.
fn ends_by_itself(words: &[String]) -> bool {
    const FLAGS: [&str; 4] = ["cleanup", "config-check", "version", "help"];
    let is_word = |word: &String| is_tool(word) || ["version", "help"].contains(&word.as_str());
    let is_flag = |word: &String| {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let name = name.map(|name| name.strip_suffix("=true").unwrap_or(name));
        name.is_some_and(|name| FLAGS.contains(&name))
    };
    words.first().is_some_and(is_word) || words.iter().any(is_flag)
}

/// Where `process` listens.
fn sockets(process: &Process) -> Option<Vec<PathBuf>> {
    let listening = process.unix().ok()?.into_iter().filter(is_listening);
    let by_inode: HashMap<u64, PathBuf> =
        listening.filter_map(|entry| Some((entry.inode, entry.path?))).collect();
    let descriptors = process.fd().ok()?.flatten();
    let paths = descriptors.filter_map(|descriptor| {
        let FDTarget::Socket(inode) = descriptor.target else { return None };
        by_inode.get(&inode)
    });
    Some(paths.filter_map(|path| reachable(process.pid, path)).collect())
}

/// Connections have the name of the socket that accepted them, too.
fn is_listening(entry: &UnixNetEntry) -> bool {
    entry.state == UnixState::UNCONNECTED && i32::from(entry.socket_type) == libc::SOCK_STREAM
}

/// Our way to a path of a process that may have another root, as in a container. `None` if somebody
/// has removed the file.
fn reachable(pid: i32, path: &Path) -> Option<PathBuf> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let seen_by_it = root.join(path.strip_prefix("/").unwrap_or(path));
    let file = identity(&seen_by_it)?;
    Some(if identity(path) == Some(file) { path.to_owned() } else { seen_by_it })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn daemon(pid: i32, is_here: bool, sockets: &[&str]) -> Daemon {
        Daemon { pid, is_here, sockets: sockets.iter().map(PathBuf::from).collect() }
    }

    #[test]
    fn program_may_have_its_architecture_in_its_name() {
        assert!(["flanneld", "flanneld-amd64"].into_iter().all(is_name));
        assert!(!["flannel", "flanneldx", "flannel-lab", ""].into_iter().any(is_name));
    }

    #[test]
    fn socket_is_that_of_the_only_daemon_in_our_namespace() {
        let elsewhere = daemon(1, false, &["/run/lab/n2/flanneld.sock"]);
        let here = daemon(2, true, &["/run/x/a.sock"]);
        assert_eq!(choose(&[elsewhere, here]).unwrap(), PathBuf::from("/run/x/a.sock"));
    }

    #[test]
    fn several_or_none_are_named() {
        let two = [daemon(1, true, &["/run/a.sock"]), daemon(2, true, &["/run/b.sock"])];
        let error = choose(&two).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        assert!(error.to_string().ends_with("/run/a.sock, /run/b.sock"), "{error}");
        let error = choose(&[daemon(1, false, &["/run/lab/n2/flanneld.sock"])]).unwrap_err();
        assert_eq!(error.exit_status(), 3);
        assert!(error.to_string().contains("/run/lab/n2/flanneld.sock"), "{error}");
        let error = choose(&[daemon(7, true, &[])]).unwrap_err().to_string();
        assert!(error.contains("pid 7"), "{error}");
        assert_eq!(choose(&[]).unwrap(), PathBuf::from(DEFAULT));
    }

    #[test]
    fn tools_and_flags_that_print_are_no_daemons() {
        let ends = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            ends_by_itself(&words)
        };
        for line in ["top", "capture -o x", "bugreport", "version", "help", "--cleanup"] {
            assert!(ends(line), "{line}");
        }
        assert!(ends("-subnet-file x.env -cleanup=true") && ends("--iface eth0 -config-check"));
        for line in ["", "run", "--ip-masq --iface eth0", "run --cleanup=false", "-v 1"] {
            assert!(!ends(line), "{line}");
        }
    }

    #[test]
    fn sockets_of_a_process_are_those_that_it_listens_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let _connection = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let found = sockets(&Process::myself().unwrap()).unwrap();
        assert_eq!(found.iter().filter(|found| **found == path).count(), 1, "{found:?}");
    }
}
