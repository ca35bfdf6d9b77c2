//! What the kernel refused: at start ([`Refused`]) and while running ([`Refusals`]).

use std::io;

use super::Offload;

/// The errno with which the kernel refused each offload that was asked for, at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused([Option<i32>; Offload::ALL.len()]);

impl Refused {
    /// Adds that `offload` was refused with `error`.
    #[must_use]
    pub fn with(mut self, offload: Offload, error: &io::Error) -> Self {
        self.0[offload as usize] = Some(error.raw_os_error().unwrap_or(libc::EOPNOTSUPP));
        self
    }

    /// The refusals of both; where both have one, this one's.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (errno, other) in self.0.iter_mut().zip(other.0) {
            *errno = errno.or(other);
        }
        self
    }

    /// The errno with which `offload` was refused.
    pub const fn errno(&self, offload: Offload) -> Option<i32> {
        self.0[offload as usize]
    }
}

/// Refusals of one offload while the worker runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Calls that were refused because of the offload and repeated packet by packet.
    pub num: u64,
    /// The errno for which the offload was turned off, if it was.
    pub off: Option<i32>,
}
