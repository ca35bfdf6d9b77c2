//! [`Recent`]: the last lines of the log, kept for a report where no journal keeps them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::control::util::time_text;

/// Most lines that are kept.
const MAX_LINES: usize = 500;

/// Most bytes of all lines together.
const MAX_BYTES: usize = 256 << 10;

/// The last lines, the oldest first, each without its end of line.
#[derive(Debug, Default, Clone)]
pub(super) struct Recent(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    num_bytes: usize,
}

impl Recent {
    /// Adds `line`, at the cost of the oldest ones. One for journald gets a time in place of its
    /// priority.
    pub(super) fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let text = match without_priority(text) {
            Some(text) => format!("{} {text}", time_text::utc(SystemTime::now())),
            None => text.to_owned(),
        };
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.num_bytes += text.len();
        recent.lines.push_back(text);
        while recent.lines.len() > MAX_LINES || recent.num_bytes > MAX_BYTES {
            let Some(oldest) = recent.lines.pop_front() else { return };
            recent.num_bytes -= oldest.len();
        }
    }

    /// All of them.
    pub(super) fn text(&self) -> String {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

/// What follows a priority as [`journal::prefix`](super::journal::prefix) writes it.
fn without_priority(line: &str) -> Option<&str> {
    let (priority, text) = line.strip_prefix('<')?.split_at_checked(1)?;
    priority.chars().all(|c| c.is_ascii_digit()).then(|| text.strip_prefix('>'))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_lines_make_room_and_lines_of_the_journal_get_a_time() {
        let recent = Recent::default();
        for number in 0..MAX_LINES + 10 {
            recent.push(format!("line {number}\n").as_bytes());
        }
        let text = recent.text();
        assert!(text.starts_with("line 10\n") && text.ends_with("line 509\n"), "{text}");
        let long = "x".repeat(4096);
        for _ in 0..MAX_LINES {
            recent.push(long.as_bytes());
        }
        assert_eq!(recent.text().lines().count(), MAX_BYTES / long.len());
        recent.push(b"<4>WARN attention\n");
        let text = recent.text();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("20") && last.ends_with("Z WARN attention"), "{last}");
        recent.push("<\u{e9}>\n".as_bytes());
        assert!(recent.text().ends_with("\n<\u{e9}>\n"));
    }
}
