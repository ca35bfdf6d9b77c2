//! [`Process`]: a program that stays, known by pid and start time so that a reused pid is no match.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal;
pub use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::netns::Netns;
use super::wait::wait_for;
use crate::lab::LabError;

/// Which process: its pid, and when the kernel started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// Clock ticks from boot to its start: field 22 of `/proc/PID/stat` (proc(5)).
    pub started: u64,
}

/// A running program with its log; dropping it leaves it running.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    child: Child,
    log: PathBuf,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        // Of a process that ends, the first thread may be a zombie while others hold its sockets still.
        let is_alive = stat.state != 'Z' || stat.num_threads > 1;
        is_alive.then_some(Self { pid, started: stat.starttime })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether a thread of it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if the process is still there.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().filter(|_| self.is_alive());
        // It may end before the signal arrives.
        pid.map(|pid| signal::kill(Pid::from_raw(pid), signal)).transpose().ok();
    }
}

impl Process {
    /// Starts `program` in `netns`; both its outputs are appended to `log`.
    ///
    /// # Errors
    /// [`LabError::Io`] when the log cannot be written or the program not started.
    pub fn start(
        netns: &Netns,
        program: &Path,
        args: &[String],
        log: PathBuf,
    ) -> Result<Self, LabError> {
        let run = |what: &str| LabError::io(format!("{what} {}", program.display()));
        if !program.is_file() && program.components().count() > 1 {
            return Err(run("find")(io::ErrorKind::NotFound.into()));
        }
        let opened = OpenOptions::new().create(true).append(true).open(&log);
        let stdout = opened.map_err(LabError::io(format!("open {}", log.display())))?;
        let stderr: File = stdout.try_clone().map_err(run("log for"))?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns.path().display()))
            .arg("--")
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0) // neither Ctrl-C nor the end of the terminal reaches it
            .spawn()
            .map_err(run("start"))?;
        let pid = child.id();
        let id = ProcessId::of(pid).unwrap_or(ProcessId { pid, started: 0 });
        Ok(Self { id, child, log })
    }

    /// Which process it is.
    pub const fn id(&self) -> ProcessId {
        self.id
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`LabError::NotInTime`].
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, LabError> {
        let what = format!("the end of process {}", self.id.pid);
        wait_for(&what, deadline, || Ok(self.ended()))
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only when it has ended and been waited for already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The last lines it logged.
    pub fn log_tail(&self, num_lines: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(num_lines)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_start_time_is_another_process() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
