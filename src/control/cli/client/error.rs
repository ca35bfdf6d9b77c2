//! [`ToolError`]: why a tool could not do its work.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::control::util::http_client::HttpError;

/// Exit status for bad input, and for what is not well.
const DEGRADED: u8 = 1;

/// Exit status if there is no daemon. As that of `systemctl status` and of init scripts.
const NOT_RUNNING: u8 = 3;

/// Why a tool could not do its work: one line.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no daemon.
    #[error("flanneld does not run here: {0}")]
    NotRunning(String),
    /// There are several.
    #[error("several flanneld run here: choose one with --socket: {0}")]
    Several(String),
    /// A running daemon that gives no answer.
    #[error("{0}")]
    NoAnswer(String),
    /// What answers is another program.
    #[error("{} is not the socket of a flanneld: another program answers", .0.display())]
    NotOurs(PathBuf),
    /// The daemon does not know the question, or we do not know the answer.
    #[error(
        "flanneld {version} at {} does not understand this flanneld {}: restart the daemon, or use \
         its own program",
        socket.display(),
        env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        /// Where it is.
        socket: PathBuf,
        /// Of the daemon.
        version: String,
    },
    /// Something else: what the argument says.
    #[error("{0}")]
    Local(String),
}

impl ToolError {
    /// The exit status that goes with it.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::NotRunning(_) => NOT_RUNNING,
            Self::Several(_)
            | Self::NoAnswer(_)
            | Self::NotOurs(_)
            | Self::OtherVersion { .. }
            | Self::Local(_) => DEGRADED,
        }
    }

    pub(super) fn no_answer(error: HttpError) -> Self {
        Self::NoAnswer(format!("{error}; flanneld doctor says more"))
    }
}

/// How long a connection to a unix socket may take; it takes no time unless its process hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a process listens at `socket`.
pub(super) async fn check(socket: &Path) -> Result<(), ToolError> {
    let shown = socket.display();
    let is_socket = std::fs::metadata(socket).map(|file| file.file_type().is_socket());
    if matches!(is_socket, Ok(false)) {
        return Err(ToolError::Local(format!("{shown} is no socket: --socket names another")));
    }
    let error = match timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            let reason = format!(
                "flanneld at {shown} does not accept connections: it hangs; flanneld doctor says more"
            );
            return Err(ToolError::NoAnswer(reason));
        }
    };
    let errno = error.raw_os_error().map(Errno::from_raw);
    Err(match errno {
        Some(Errno::ENOENT) => ToolError::NotRunning(format!("there is no {shown}")),
        Some(Errno::ECONNREFUSED) => ToolError::NotRunning(format!("nobody listens at {shown}")),
        Some(Errno::EACCES) => ToolError::Local(format!(
            "no permission to use {shown}: run this as root or as a member of the group flannel"
        )),
        Some(_) | None => ToolError::Local(format!("{shown}: {error}")),
    })
}
