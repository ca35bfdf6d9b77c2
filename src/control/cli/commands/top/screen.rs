//! [`Screen`]: the terminal while `flanneld top` has it.

use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::Print;
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::frame::Size;
use crate::control::cli::client::ToolError;

/// The terminal's second screen. The first one comes back when this is dropped, and before the
/// message of a panic.
pub(super) struct Screen {
    wishes: UnboundedReceiver<io::Result<Wish>>,
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// The window has another size.
    Redraw,
}

impl Screen {
    pub(super) fn open() -> Result<Self, ToolError> {
        let caught = |kind| signal(kind).map_err(failed);
        let (sender, wishes) = unbounded_channel();
        let screen = Self {
            wishes,
            hangup: caught(SignalKind::hangup())?,
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
        };
        terminal::enable_raw_mode().map_err(failed)?;
        IS_OPEN.store(true, Ordering::Relaxed);
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        // From here on, `drop` restores the terminal.
        execute!(io::stdout(), EnterAlternateScreen, Hide).map_err(failed)?;
        // It waits for keys until the process ends.
        thread::Builder::new().spawn(move || read_events(&sender)).map_err(failed)?;
        Ok(screen)
    }

    /// Shows as many lines of a text, which is made for the room that there is, as fit.
    pub(super) fn draw(&self, text: impl FnOnce(Size) -> String) -> Result<(), ToolError> {
        let (width, height) = terminal::size().map_err(failed)?;
        let last = height.saturating_sub(1);
        let text = text(Size { columns: width.into(), rows: last.into() });
        let mut bytes = Vec::new();
        let mut draw = || {
            queue!(bytes, BeginSynchronizedUpdate)?;
            let mut lines = text.lines();
            for row in 0..last {
                let line = cut(lines.next().unwrap_or_default(), width.into());
                // Cleared first: after a line's last column the cursor is still in that column.
                queue!(bytes, MoveTo(0, row), Clear(ClearType::UntilNewLine), Print(line))?;
            }
            let quits = cut("q quits", width.into());
            queue!(bytes, MoveTo(0, last), Clear(ClearType::UntilNewLine), Print(quits))?;
            queue!(bytes, EndSynchronizedUpdate)?;
            io::stdout().write_all(&bytes)?;
            io::stdout().flush()
        };
        draw().map_err(failed)
    }

    /// The next key, signal or change of size that means something.
    ///
    /// # Cancel safety
    /// Dropping the future loses none.
    pub(super) async fn wish(&mut self) -> Result<Wish, ToolError> {
        tokio::select! {
            _ = self.hangup.recv() => Ok(Wish::Quit),
            _ = self.interrupt.recv() => Ok(Wish::Quit),
            _ = self.terminate.recv() => Ok(Wish::Quit),
            wish = self.wishes.recv() => match wish {
                Some(wish) => wish.map_err(failed),
                None => Ok(Wish::Quit),
            },
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is to be given back.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back as it was, once: leaving the second screen also moves the cursor to where
/// it was, which is before the message of a panic.
fn restore() {
    if !IS_OPEN.swap(false, Ordering::Relaxed) {
        return;
    }
    // Nothing else can be done if the terminal is gone.
    drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
    drop(terminal::disable_raw_mode());
}

/// Passes on what the user does, until nobody asks for it or the terminal is gone.
fn read_events(wishes: &UnboundedSender<io::Result<Wish>>) {
    loop {
        let event = event::read();
        let is_end = event.is_err();
        let wish = event.map(|event| wish(&event)).transpose();
        if wish.is_some_and(|wish| wishes.send(wish).is_err()) || is_end {
            return;
        }
    }
}

fn wish(event: &Event) -> Option<Wish> {
    match event {
        Event::Resize(..) => Some(Wish::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => {
            let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                && matches!(key.code, KeyCode::Char('c' | 'd'));
            let is_quit = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
            (is_interrupt || is_quit).then_some(Wish::Quit)
        }
        Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) => None,
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

    #[test]
    fn keys_that_quit() {
        let key = |code, modifiers| wish(&Event::Key(event::KeyEvent::new(code, modifiers)));
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        for (code, modifiers) in [
            (KeyCode::Char('q'), none),
            (KeyCode::Char('Q'), KeyModifiers::SHIFT),
            (KeyCode::Esc, none),
            (KeyCode::Char('c'), control),
            (KeyCode::Char('d'), control),
        ] {
            assert_eq!(key(code, modifiers), Some(Wish::Quit), "{code:?}");
        }
        assert_eq!(key(KeyCode::Char('c'), none), None);
        assert_eq!(wish(&Event::Resize(40, 20)), Some(Wish::Redraw));
    }
}
