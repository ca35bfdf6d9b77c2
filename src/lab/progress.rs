//! What the lab is doing, on standard error; what it found, on standard output.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::LabError;

static START: OnceLock<Instant> = OnceLock::new();
static MUTED: AtomicBool = AtomicBool::new(false);

/// Says what is done now, with the seconds since the first such line.
pub fn step(what: &str) {
    if !MUTED.load(Ordering::Relaxed) {
        warn(what);
    }
}

/// Stops the printing of steps, but not of warnings: for tests.
pub fn mute() {
    MUTED.store(true, Ordering::Relaxed);
}

/// Prints what went wrong where no caller takes an error.
pub(super) fn warn(what: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    // Nobody may be listening, and cleaning up must go on then.
    drop(writeln!(io::stderr(), "[{elapsed:5.1}s] {what}"));
}

/// Writes a result to standard output.
///
/// # Errors
/// [`LabError::Io`]: a reader that went away is an error like any other.
pub fn print(text: &str) -> Result<(), LabError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(LabError::io("write to standard output"))
}
