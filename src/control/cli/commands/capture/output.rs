//! [`Output`]: where a capture is written.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::control::cli::client::ToolError;

/// A file, or standard output.
pub(super) enum Output {
    File {
        path: PathBuf,
        file: File,
        /// Bytes and packets written so far.
        len: u64,
        num_packets: u64,
    },
    Stdout,
}

impl Output {
    /// The file at `path`, which is replaced if it is there, or standard output.
    ///
    /// # Errors
    /// [`ToolError`] if the file cannot be made.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, ToolError> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let created = File::create(path);
        let path = path.to_owned();
        match created {
            Ok(file) => Ok(Self::File { path, file, len: 0, num_packets: 0 }),
            Err(error) => Err(ToolError::Local(format!("write {}: {error}", path.display()))),
        }
    }

    /// Writes whole blocks; it has `now` packets then. Returns false if the reader of standard
    /// output has seen enough.
    ///
    /// # Errors
    /// [`ToolError`] if they cannot be written. The file ends with the block before them.
    pub(super) fn write(&mut self, blocks: &[u8], now: u64) -> Result<bool, ToolError> {
        match self {
            Self::File { path, file, len, num_packets } => match file.write_all(blocks) {
                Ok(()) => {
                    (*len, *num_packets) = (*len + blocks.len() as u64, now);
                    Ok(true)
                }
                Err(error) => {
                    // Half a block would make the file unreadable. A device has no length.
                    drop(file.set_len(*len));
                    Err(ToolError::Local(format!(
                        "write {}: {error}; it has the first {num_packets} packets",
                        path.display()
                    )))
                }
            },
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                match stdout.write_all(blocks).and_then(|()| stdout.flush()) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
                    Err(error) => {
                        Err(ToolError::Local(format!("write to standard output: {error}")))
                    }
                }
            }
        }
    }
}
