//! Lines for journald, which has its own clock and takes a priority in front of each line: sd-daemon(3).

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Compact, Format as Lines, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error is journald's: systemd says which file that is, since a program may have
/// redirected it.
pub(super) fn is_stderr() -> bool {
    let Ok(file) = fs::metadata("/proc/self/fd/2") else { return false };
    let stream = std::env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// The priority of a line, as syslog(3) counts.
pub(super) const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// The lines of the log, with a time, or with a priority instead.
pub(super) enum Format {
    Timed(Lines<Compact>),
    Prioritized(Lines<Compact, ()>),
}

impl Format {
    pub(super) fn new(lines: Lines<Compact>, is_journal: bool) -> Self {
        if is_journal { Self::Prioritized(lines.without_time()) } else { Self::Timed(lines) }
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Timed(lines) => lines.format_event(context, writer, event),
            Self::Prioritized(lines) => {
                writer.write_str(prefix(*event.metadata().level()))?;
                lines.format_event(context, writer, event)
            }
        }
    }
}
