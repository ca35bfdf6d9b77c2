//! [`Fault`]: why one call failed; [`Retries`]: whether and when it is made again.

use std::time::Duration;

use crate::control::util::backoff::Backoff;
use crate::control::util::http_client::HttpError;

/// Why the cloud did not do what it was asked to: one line that says what is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::control::backend) struct CloudError(pub(in crate::control::backend) String);

/// Why one call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::backend) enum Fault {
    /// There was no answer, or the server has a problem of its own.
    Transient(String),
    /// The server asks for fewer calls.
    Throttled(String),
    /// The same call would fail again.
    Final(String),
}

impl From<HttpError> for Fault {
    fn from(error: HttpError) -> Self {
        Self::Transient(error.to_string())
    }
}

impl From<Fault> for CloudError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transient(reason) | Fault::Throttled(reason) | Fault::Final(reason) => {
                Self(reason)
            }
        }
    }
}

/// Attempts at one call.
#[derive(Debug)]
pub(in crate::control::backend) struct Retries {
    num_left: u32,
    transient: Backoff,
    throttled: Backoff,
}

/// How often a call is made: as the SDKs of AWS do it by default, and twice more for a server that
/// asks for patience.
const MAX_ATTEMPTS: u32 = 3;
const MAX_THROTTLED: u32 = 5;

impl Retries {
    /// For a call that has not been made yet.
    pub(in crate::control::backend) const fn new() -> Self {
        let transient = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
        let throttled = Backoff::new(Duration::from_secs(1), Duration::from_secs(16));
        Self { num_left: MAX_THROTTLED, transient, throttled }
    }

    /// Waits until the call may be made again.
    ///
    /// # Errors
    /// The reason of `fault`, if it is not to be made again.
    pub(in crate::control::backend) async fn wait(
        &mut self,
        fault: Fault,
    ) -> Result<(), CloudError> {
        self.num_left = self.num_left.saturating_sub(1);
        let delay = match &fault {
            Fault::Transient(_) if self.num_left > MAX_THROTTLED - MAX_ATTEMPTS => {
                self.transient.delay()
            }
            Fault::Throttled(_) if self.num_left > 0 => self.throttled.delay(),
            Fault::Transient(_) | Fault::Throttled(_) | Fault::Final(_) => {
                return Err(fault.into());
            }
        };
        tokio::time::sleep(delay).await;
        Ok(())
    }
}
