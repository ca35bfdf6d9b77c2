//! The daemon's log: lines on standard error, best effort.
//!
//! ```text
//! tracing event ─ limit ─ format ─ escape ─→ bounded queue ─→ thread "flannel-log" ─→ stderr
//!                                       └──→ the last lines, for `flanneld bugreport`
//! ```
//!
//! Only the thread that writes to standard error waits for it: if the reader stops or disconnects, or
//! the disk is full, lines are lost and counted, and nothing else happens. Input from outside cannot
//! flood or forge the log: each kind of line, that is each place in the code that logs, has a limit a
//! minute (`limit`), and no text from outside can end a line or move a terminal's cursor (`escape`).
//! Under journald, lines have a priority and no time (`journal`).

mod escape;
mod journal;
mod limit;
mod recent;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::escape::{EscapedFields, escape};
use self::limit::Limits;
use self::writer::Queue;
pub(super) use self::writer::THREAD;
use super::panics;

/// Where the lines go, once the log is started.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it says")]
pub enum LogError {
    #[error("variable RUST_LOG")]
    Filter(#[from] ParseError),
    #[error("start the log's thread")]
    Thread(#[source] io::Error),
}

/// Logs to stderr from now on, panics too. The libraries' own debug output is logged only with
/// RUST_LOG.
///
/// # Errors
/// [`LogError`].
pub fn start(verbosity: u8) -> Result<(), LogError> {
    let by_verbosity = match verbosity {
        0 => "warn,twill=info",
        1 => "warn,twill=debug",
        2 => "warn,twill=trace",
        3.. => "debug,twill=trace",
    };
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let directives = directives.unwrap_or_else(|| by_verbosity.to_owned());
    let filter = EnvFilter::builder().parse(directives)?;
    let limits = Arc::<Limits>::default();
    let queue = writer::start(io::stderr(), Arc::clone(&limits)).map_err(LogError::Thread)?;
    let format = tracing_subscriber::fmt::format().compact().with_target(false);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(journal::Format::new(format, journal::is_stderr()))
        .fmt_fields(EscapedFields)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(queue.clone());
    let limit = limit::Layer::new(limits, queue.clone());
    tracing_subscriber::registry().with(filter).with(lines).with(limit).init();
    panics::install();
    // Only the first call starts a log: `init` panics at a second one.
    drop(QUEUE.set(queue));
    Ok(())
}

/// The last lines, the oldest first.
pub fn recent() -> String {
    QUEUE.get().map(Queue::recent).unwrap_or_default()
}

/// Ends the log with `last`, a line of its own form, and gives standard error a moment to take what
/// is still queued.
pub fn end(last: Option<&str>) {
    let prefix = if journal::is_stderr() { journal::prefix(Level::ERROR) } else { "" };
    let last = last.map(|last| format!("{prefix}{}\n", escape(last)));
    // After a mistake on the command line the log is not started yet.
    let queue =
        QUEUE.get().cloned().map_or_else(|| writer::start(io::stderr(), Arc::default()), Ok);
    match queue {
        Ok(queue) => queue.end(last),
        // Without a thread the write may block, and there may be no reader.
        Err(_) => drop(io::stderr().write_all(last.unwrap_or_default().as_bytes())),
    }
}
