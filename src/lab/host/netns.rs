//! [`Netns`]: a named network namespace, and commands in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{self, CloneFlags};
use serde::{Deserialize, Serialize};

use super::command::{CommandError, Tool};

/// A named network namespace, such as `ip netns` makes. Dropping it leaves it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netns {
    name: String,
}

/// Where `ip netns` keeps its names (ip-netns(8)).
pub(crate) const NETNS_DIR: &str = "/run/netns";

impl Netns {
    /// The namespace called `name`, which may not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Creates the namespace called `name`, with its loopback up.
    ///
    /// # Errors
    /// [`CommandError`] when the name is taken or namespaces are forbidden.
    pub fn create(name: impl Into<String>) -> Result<Self, CommandError> {
        let netns = Self::named(name);
        Tool::new("ip").words("netns add").arg(&netns.name).run()?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// The kernel's number for the namespace, if it exists; `/proc/PID/ns/net` has the same.
    pub fn inode(&self) -> Option<u64> {
        fs::metadata(self.path()).ok().map(|file| file.ino())
    }

    /// A tool that will run in the namespace; mounts, users and processes stay the caller's.
    pub fn tool(&self, program: impl AsRef<OsStr>) -> Tool {
        Tool::new("nsenter").arg(format!("--net={}", self.path().display())).arg("--").arg(program)
    }

    /// Does `work` on a thread of its own that is in the namespace; sockets made there stay there.
    ///
    /// # Errors
    /// The namespace is gone, or what `work` failed with.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sched::setns(File::open(self.path())?, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
        })
    }

    /// Runs `ip` with the words of `args` in the namespace.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn ip(&self, args: &str) -> Result<String, CommandError> {
        Tool::new("ip").arg("-n").arg(&self.name).words(args).run()
    }

    /// Runs many `ip` commands in one process; they stop at the first that fails.
    ///
    /// # Errors
    /// [`CommandError`] that names the command which failed.
    pub fn ip_batch(&self, commands: &[String]) -> Result<(), CommandError> {
        if commands.is_empty() {
            return Ok(());
        }
        let batch = Tool::new("ip").arg("-n").arg(&self.name).words("-batch -");
        match batch.stdin(commands.join("\n")).run() {
            Ok(_) => Ok(()),
            Err(CommandError::Failed { command, status, stderr }) => {
                let line = failed_line(&stderr).and_then(|line| commands.get(line - 1));
                let command = match line {
                    Some(line) => format!("ip -n {} {line}", self.name),
                    None => command,
                };
                Err(CommandError::Failed { command, status, stderr })
            }
            Err(other) => Err(other),
        }
    }

    /// Sets kernel variables of the namespace, such as `net.ipv4.ip_forward=1`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn sysctl(&self, settings: &str) -> Result<(), CommandError> {
        self.tool("sysctl").words("-q -w").words(settings).run().map(drop)
    }

    /// Removes the name; the namespace ends with the last process in it.
    ///
    /// # Errors
    /// [`CommandError`] when there is no such namespace.
    pub fn delete(&self) -> Result<(), CommandError> {
        Tool::new("ip").words("netns del").arg(&self.name).uninterruptible().run().map(drop)
    }
}

/// The line number in ip's `Command failed -:3`.
fn failed_line(stderr: &str) -> Option<usize> {
    let (_, rest) = stderr.rsplit_once("Command failed -:")?;
    rest.trim().parse().ok().filter(|line| *line > 0)
}

#[cfg(test)]
mod tests {
    use super::failed_line;

    #[test]
    fn batch_error_names_its_line() {
        assert_eq!(failed_line("RTNETLINK answers: File exists; Command failed -:12"), Some(12));
        assert_eq!(failed_line("Command failed -:0"), None);
        assert_eq!(failed_line("no such namespace"), None);
    }
}
