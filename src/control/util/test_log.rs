//! Catches what is logged on a test's thread.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// The log of this thread for as long as this lives.
pub(crate) struct Logs {
    text: Text,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub(crate) fn capture() -> Self {
        // With a single subscriber in the process, `tracing` asks the thread that meets a log line
        // first whether anybody wants it. A second one makes it ask all subscribers.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| {
            Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish())
        });
        LazyLock::force(&SECOND);
        let text = Text::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(text.clone())
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that hold `part`.
    pub(crate) fn lines_with(&self, part: &str) -> Vec<String> {
        let text = self.text.0.lock().unwrap();
        let lines = String::from_utf8_lossy(&text).into_owned();
        lines.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// How many lines hold `part`.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.lines_with(part).len()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
