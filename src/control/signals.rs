//! SIGINT and SIGTERM: the first asks the daemon to stop, a second one kills it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears the signals that ask the daemon to stop.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// The handlers could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("install signal handlers")]
pub struct SignalError(#[source] io::Error);

impl StopSignals {
    /// Installs the handlers, for the life of the process.
    ///
    /// # Errors
    /// [`SignalError`] when the kernel refuses.
    pub fn install() -> Result<Self, SignalError> {
        let stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            // Handlers run in this order. So the first signal finds the flag down and raises it,
            // and a second one has its default effect, even if no task gets to run any more.
            flag::register_conditional_default(number, Arc::clone(&stopping))
                .and_then(|_| flag::register(number, Arc::clone(&stopping)))
                .map_err(SignalError)?;
        }
        let interrupt = signal(SignalKind::interrupt()).map_err(SignalError)?;
        let terminate = signal(SignalKind::terminate()).map_err(SignalError)?;
        Ok(Self { interrupt, terminate })
    }

    /// Waits for the first of them and returns its name.
    ///
    /// # Cancel safety
    /// Dropping the future loses no signal.
    pub async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
