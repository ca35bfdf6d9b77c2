//! Signals: which of them stop the daemon, and which make it log its status.
//!
//! The first SIGINT or SIGTERM asks the daemon to stop, a second one kills it. SIGHUP stops a
//! daemon that was started from a terminal, because the terminal is closed then. Otherwise SIGHUP
//! by convention means "read the settings again"; this daemon does not, but must not die of it.
//! SIGUSR1 and SIGUSR2 have no meaning here, and must not kill it either. SIGPIPE is ignored: Rust's
//! runtime does that.

use std::fs;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives the signals.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where it was ignored when we were started, as by nohup(1).
    hangup: Option<Signal>,
    user1: Signal,
    user2: Signal,
    has_terminal: bool,
}

/// What a signal, named, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The end.
    Stop(&'static str),
    /// To read the settings again.
    Reload(&'static str),
    /// Nothing that is known.
    Status(&'static str),
}

/// The handlers could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("install signal handlers")]
pub struct SignalError(#[source] io::Error);

impl Signals {
    /// Installs the handlers, for the life of the process.
    ///
    /// # Errors
    /// [`SignalError`] when the kernel refuses.
    pub fn install() -> Result<Self, SignalError> {
        let hear = |kind| signal(kind).map_err(SignalError);
        let (interrupt, terminate) =
            (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
        // Only now, or a signal that comes before we hear it would count as the first one.
        let stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            // Handlers run in this order. So the first signal finds the flag down and raises it,
            // and a second one has its default effect, even if no task gets to run any more.
            flag::register_conditional_default(number, Arc::clone(&stopping))
                .and_then(|_| flag::register(number, Arc::clone(&stopping)))
                .map_err(SignalError)?;
        }
        let hangup = if ignores_hangup() { None } else { Some(hear(SignalKind::hangup())?) };
        Ok(Self {
            interrupt,
            terminate,
            hangup,
            user1: hear(SignalKind::user_defined1())?,
            user2: hear(SignalKind::user_defined2())?,
            has_terminal: io::stdin().is_terminal() || io::stderr().is_terminal(),
        })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Dropping the future loses no signal.
    pub async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = hangup => match self.has_terminal {
                true => Asked::Stop("SIGHUP"),
                false => Asked::Reload("SIGHUP"),
            },
            _ = self.user1.recv() => Asked::Status("SIGUSR1"),
            _ = self.user2.recv() => Asked::Status("SIGUSR2"),
        }
    }
}

/// Whether SIGHUP is ignored already: the mask `SigIgn` of proc_pid_status(5).
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}
