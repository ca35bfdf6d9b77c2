//! [`Process`]: a program that stays, known by pid and start time so that a reused pid is no match.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::Tool;
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
        let (state, started) = stat(pid)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal by its name, such as `TERM`, if the process is still there.
    pub fn signal(self, name: &str) {
        if self.is_alive() {
            // It may end between the question and the signal: then the wish is granted.
            drop(
                Tool::new("kill")
                    .arg(format!("-{name}"))
                    .arg(self.pid.to_string())
                    .uninterruptible()
                    .run(),
            );
        }
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

/// State letter and start time of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

/// The program's name stands in brackets and may itself hold spaces and brackets.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_brackets() {
        let text = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2\n";
        assert_eq!(parse_stat(text), Some(('S', 4711)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn other_start_time_is_another_process() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
