//! SIGINT, SIGTERM and SIGHUP: remembered, so that a waiting caller can stop and clean up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ARRIVED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the three signals no longer kill this process. Calling it again changes nothing.
///
/// # Errors
/// The kernel's refusal to set a handler.
pub fn catch() -> io::Result<()> {
    let flag = ARRIVED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether one of them arrived since [`catch`].
pub fn interrupted() -> bool {
    ARRIVED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}
