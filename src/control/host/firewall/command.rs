//! Runs the host's firewall tools, each for a bounded time.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one call may take. It waits for the lock of iptables meanwhile, which others hold for
/// seconds on hosts with many rules.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a tool did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("run {program}: it is not in PATH")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It could not be started, or waited for.
    #[error("run {program}")]
    Run {
        /// Its name.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not end in time, and was killed.
    #[error("{program} does not end: killed after {} s", LIMIT.as_secs())]
    Hung {
        /// Its name.
        program: String,
    },
    /// It ended with an error.
    #[error("{program}: {reason}")]
    Failed {
        /// Its name.
        program: String,
        /// The first line it wrote to its standard error, or its exit status.
        reason: String,
    },
}

impl CommandError {
    /// The error and its source, as one line.
    pub(crate) fn line(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Whether the program does not exist.
    pub(crate) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Runs `program` with `input` on its standard input and returns what it prints.
///
/// # Errors
/// [`CommandError`], also when it exits with another status than 0.
///
/// # Cancel safety
/// Dropping the future kills the program.
pub(super) async fn run(program: &str, args: &[&str], input: &str) -> Result<String, CommandError> {
    let program = program.to_owned();
    let failed = |source: io::Error| {
        let (program, is_missing) = (program.clone(), source.kind() == io::ErrorKind::NotFound);
        if is_missing {
            CommandError::Missing { program }
        } else {
            CommandError::Run { program, source }
        }
    };
    let mut command = Command::new(&program);
    command.args(args).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(&failed)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that ends before it read everything says why by itself.
            drop(stdin.write_all(input.as_bytes()).await);
        }
    };
    let work = async { tokio::join!(child.wait_with_output(), feed).0 };
    let output = match timeout(LIMIT, work).await {
        Ok(output) => output.map_err(&failed)?,
        Err(_) => return Err(CommandError::Hung { program }),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().map(str::trim).find(|line| !line.is_empty());
    let reason = line.map_or_else(|| output.status.to_string(), str::to_owned);
    Err(CommandError::Failed { program, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_returned_and_input_is_read() {
        assert_eq!(run("cat", &["-"], "some text").await.unwrap(), "some text");
        assert_eq!(run("true", &[], &"x".repeat(1 << 20)).await.unwrap(), "");
    }

    #[tokio::test]
    async fn failures_are_one_line() {
        let script = "echo >&2; echo '  first' >&2; echo second >&2; exit 3";
        let error = run("sh", &["-c", script], "").await.unwrap_err();
        assert_eq!(error.line(), "sh: first");
        let error = run("false", &[], "").await.unwrap_err();
        assert_eq!(error.line(), "false: exit status: 1");
    }

    #[tokio::test]
    async fn program_that_cannot_start_is_one_line() {
        let error = run("no-such-tool", &[], "").await.unwrap_err();
        assert!(error.is_missing());
        assert_eq!(error.line(), "run no-such-tool: it is not in PATH");
        let error = run("/", &[], "").await.unwrap_err();
        assert!(error.line().starts_with("run /: Permission denied"), "{}", error.line());
    }

    #[tokio::test(start_paused = true)]
    async fn program_that_hangs_is_killed() {
        // The clock jumps to the limit as soon as nothing else can happen.
        let error = run("sleep", &["1000"], "").await.unwrap_err();
        assert_eq!(error.line(), "sleep does not end: killed after 10 s");
    }
}
