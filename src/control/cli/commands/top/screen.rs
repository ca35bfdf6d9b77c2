//! [`Screen`]: the terminal while `flanneld top` has it.

use std::io::{self, Stdout, Write};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::Print;
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue};

use crate::control::cli::client::ToolError;

/// The terminal's second screen. The first one comes back when this is dropped.
pub(super) struct Screen {
    out: Stdout,
}

/// What the user or the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// The window has another size.
    Redraw,
    /// It is time for the next frame.
    Next,
}

impl Screen {
    pub(super) fn open() -> Result<Self, ToolError> {
        terminal::enable_raw_mode().map_err(failed)?;
        let mut screen = Self { out: io::stdout() };
        execute!(screen.out, EnterAlternateScreen, Hide).map_err(failed)?;
        Ok(screen)
    }

    /// Shows as many lines of `text` as there is room for.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), ToolError> {
        let (width, height) = terminal::size().map_err(failed)?;
        let mut draw = || {
            queue!(self.out, BeginSynchronizedUpdate, Clear(ClearType::All))?;
            for (row, line) in (0..height.saturating_sub(1)).zip(text.lines()) {
                queue!(self.out, MoveTo(0, row), Print(cut(line, width.into())))?;
            }
            let last = MoveTo(0, height.saturating_sub(1));
            queue!(self.out, last, Print("q quits"), EndSynchronizedUpdate)?;
            self.out.flush()
        };
        draw().map_err(failed)
    }

    /// Waits for a key, or for as long as `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Result<Wish, ToolError> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left).map_err(failed)? {
                return Ok(Wish::Next);
            }
            match event::read().map_err(failed)? {
                Event::Resize(..) => return Ok(Wish::Redraw),
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                        && matches!(key.code, KeyCode::Char('c' | 'd'));
                    if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(Wish::Quit);
                    }
                }
                Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) => {}
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing else can be done if the terminal is gone.
        drop(execute!(self.out, Show, LeaveAlternateScreen));
        drop(terminal::disable_raw_mode());
    }
}

/// The first `width` columns of `line`; what sets colours takes none.
fn cut(line: &str, width: usize) -> String {
    let (mut column, mut in_escape) = (0, false);
    let is_kept = |&c: &char| {
        if in_escape || c == '\x1b' {
            in_escape = c != 'm';
            return true;
        }
        column += 1;
        column <= width
    };
    line.chars().filter(is_kept).collect()
}

fn failed(error: io::Error) -> ToolError {
    ToolError::Local(format!("use the terminal: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_colours_end() {
        assert_eq!(cut("abcdef", 3), "abc");
        assert_eq!(cut("\x1b[31mabcdef\x1b[0m", 3), "\x1b[31mabc\x1b[0m");
        assert_eq!(cut("ab", 3), "ab");
    }
}
