//! [`FastPathError`]: why the kernel takes no programs, and the number it said that by.

use std::error::Error;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// The kernel took none of it.
    #[error("load the BPF programs")]
    Load(#[source] EbpfError),
    /// The kernel did not take a program.
    #[error("load the BPF program {name}")]
    Program {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// It cannot be where packets pass.
    #[error("attach the BPF program {name} to {device}")]
    Attach {
        /// Which.
        name: &'static str,
        /// To what.
        device: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// The driver does not take XDP.
    #[error("attach XDP to {device}")]
    NoXdp {
        /// Whose driver.
        device: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// A table is not to be had as memory.
    #[error("map the peers' tables to memory")]
    Memory(#[source] io::Error),
    /// They were to be detached before they were attached.
    #[error("the overlay device went away meanwhile")]
    Stopped,
    /// The object lacks something.
    #[error("{0} is not in the BPF object")]
    Missing(&'static str),
}

impl FastPathError {
    /// What the kernel said, if it said something.
    pub fn errno(&self) -> Option<i32> {
        errno_of(self)
    }
}

/// The number that the kernel returned, of all causes the innermost.
pub(super) fn errno_of(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    let mut errno = None;
    while let Some(cause) = next {
        // Some errors of aya do not name the one of the kernel as their source.
        let io_error = match cause.downcast_ref::<ProgramError>() {
            Some(ProgramError::IOError(error) | ProgramError::TcError(TcError::IoError(error))) => {
                Some(error)
            }
            Some(_) | None => cause.downcast_ref::<io::Error>(),
        };
        errno = io_error.and_then(io::Error::raw_os_error).or(errno);
        next = cause.source();
    }
    errno
}
