//! [`NodeError`]: why the node does not take part in the overlay.

use crate::control::backend::BackendError;
use crate::control::subnet::AcquireError;
use crate::control::subnet::LeaseLost;

/// Why the node did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its source says")]
pub enum NodeError {
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("lease lost")]
    LeaseLost(#[from] LeaseLost),
}
