//! Waiting for conditions, never for durations.

use std::thread;
use std::time::{Duration, Instant};

use super::signals;
use crate::lab::LabError;

/// Asks `condition` until it holds; gives what it found.
///
/// # Errors
/// [`LabError::NotInTime`] naming `what` after `deadline`, [`LabError::Interrupted`] on Ctrl-C,
/// and whatever the condition itself fails with.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>, LabError>,
) -> Result<T, LabError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if signals::interrupted() {
            return Err(LabError::Interrupted);
        }
        if start.elapsed() > deadline {
            return Err(LabError::NotInTime { what: what.to_owned(), deadline });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
