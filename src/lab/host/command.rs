//! Tools run to their end: `ip`, `ethtool`, `etcdctl`, `ping`, `iperf3`.
//!
//! Every run has a deadline and ends early on Ctrl-C. Programs that stay are in
//! [`process`](super::process).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::signals;
use super::tools;

/// Why a tool gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tool is not installed.
    #[error("{tool} is not installed: run `{}` or `make setup`", tools::how_to_install(.tool))]
    Missing {
        /// Its name, as looked up in `PATH`.
        tool: String,
    },
    /// The tool could not be started, or its pipes broke.
    #[error("run `{command}`")]
    Run {
        /// The command line.
        command: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The tool ended with an error.
    #[error("`{command}` failed with {status}: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said about it, on one line.
        stderr: String,
    },
    /// The tool did not end in time and was killed.
    #[error("`{command}` did not end within {deadline:?}")]
    TimedOut {
        /// The command line.
        command: String,
        /// How long it was given.
        deadline: Duration,
    },
    /// Ctrl-C or SIGTERM arrived meanwhile.
    #[error("interrupted")]
    Interrupted,
}

/// What a tool printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command line that is about to run.
#[derive(Debug, Clone)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    stdin: Vec<u8>,
    deadline: Duration,
    interruptible: bool,
}

/// Long enough for any single `ip` or `etcdctl` call on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

impl Tool {
    /// `program`, looked up in `PATH`, without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            stdin: Vec::new(),
            deadline: DEADLINE,
            interruptible: true,
        }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Appends the words of `args`, which are separated by spaces.
    #[must_use]
    pub fn words(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(OsString::from));
        self
    }

    /// What the tool reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long the tool may take.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Lets the tool finish although Ctrl-C was pressed: for cleaning up.
    #[must_use]
    pub const fn uninterruptible(mut self) -> Self {
        self.interruptible = false;
        self
    }

    /// Runs the tool and gives its standard output.
    ///
    /// # Errors
    /// [`CommandError`]; a non-zero exit is one.
    pub fn run(&self) -> Result<String, CommandError> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        Err(CommandError::Failed {
            command: self.to_string(),
            status: output.status,
            stderr: error_chain(said),
        })
    }

    /// Runs the tool; the caller checks the exit status.
    ///
    /// # Errors
    /// [`CommandError`], but never [`CommandError::Failed`].
    pub fn output(&self) -> Result<Output, CommandError> {
        let mut child = self.spawn()?;
        let stdin = child.stdin.take();
        let input = self.stdin.clone();
        // A tool that ends without reading all of its input says why on its own.
        let feeder = thread::spawn(move || drop(stdin.map(|mut pipe| pipe.write_all(&input))));
        let stdout = read_all(child.stdout.take());
        let stderr = read_all(child.stderr.take());
        let ended = self.wait(&mut child);
        // A joined thread that panicked leaves an empty text.
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        drop(feeder.join());
        Ok(Output { status: ended?, stdout, stderr })
    }

    fn spawn(&self) -> Result<Child, CommandError> {
        Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to the lab alone, which then stops its tools in order.
            .process_group(0)
            .spawn()
            .map_err(|source| self.failed(source))
    }

    /// Waits for the end, the deadline or Ctrl-C; the child is gone after that.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus, CommandError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = child.try_wait().map_err(|source| self.failed(source))? {
                return Ok(status);
            }
            let interrupted = self.interruptible && signals::interrupted();
            if interrupted || start.elapsed() > self.deadline {
                // It may have ended by itself just now; both are the end.
                drop(child.kill());
                drop(child.wait());
                return Err(if interrupted {
                    CommandError::Interrupted
                } else {
                    let command = self.to_string();
                    CommandError::TimedOut { command, deadline: self.deadline }
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn failed(&self, source: io::Error) -> CommandError {
        if source.kind() == io::ErrorKind::NotFound {
            return CommandError::Missing { tool: self.program.to_string_lossy().into_owned() };
        }
        CommandError::Run { command: self.to_string(), source }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The lines of `text` that say something, joined by `; `.
fn error_chain(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_carries_what_the_tool_said() {
        let error = Tool::new("sh").arg("-c").arg("echo no >&2; echo way >&2; exit 3").run();
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("exit status: 3: no; way"), "{text}");
    }

    #[test]
    fn missing_tool_is_named() {
        let error = Tool::new("flannel-lab-no-such-tool").run().unwrap_err();
        assert!(matches!(error, CommandError::Missing { .. }), "{error}");
    }

    #[test]
    fn deadline_ends_a_tool_that_hangs() {
        let tool = Tool::new("sleep").arg("60").deadline(Duration::from_millis(50));
        assert!(matches!(tool.run(), Err(CommandError::TimedOut { .. })));
    }

    #[test]
    fn input_reaches_the_tool() {
        assert_eq!(Tool::new("cat").stdin("hello").run().unwrap(), "hello");
    }
}
