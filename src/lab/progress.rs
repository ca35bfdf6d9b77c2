//! What the lab is doing, on standard error.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Says what is done now, with the seconds since the first such line.
pub fn step(what: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    // Nobody may be listening, and cleaning up must go on then.
    drop(writeln!(io::stderr(), "[{elapsed:5.1}s] {what}"));
}
