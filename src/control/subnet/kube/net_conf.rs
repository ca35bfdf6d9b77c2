//! The network config: `net-conf.json`, a file that a config map is mounted as.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::control::config::backend::BackendType;
use crate::control::config::network::{self, ConfigError, NetworkConfig};
use crate::control::util::atomic_file::read_file;
use crate::control::util::error_chain::error_chain;

/// How long until the file is looked at again. The kubelet takes a minute to mount a new config map.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long the disk may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the file gives no network config. One line.
#[derive(Debug, thiserror::Error)]
pub enum NetConfError {
    /// It cannot be read.
    #[error("failed to read net conf: {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something that cannot work.
    #[error("error parsing subnet config: {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
}

/// The network config in the file at `path`; `backend` takes the place of its `Backend.Type`.
///
/// # Errors
/// [`NetConfError`].
pub(crate) fn read(
    path: &Path,
    backend: Option<BackendType>,
) -> Result<NetworkConfig, NetConfError> {
    let text =
        read_file(path).map_err(|source| NetConfError::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&text);
    network::parse(&text, backend)
        .map_err(|source| NetConfError::Config { path: path.to_owned(), source })
}

/// Hands `sink` what is wrong with the file each time that changes: `None` when it says what this
/// node runs with. A running node stays with what it started with.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn follow(
    path: &Path,
    backend: Option<BackendType>,
    in_use: &NetworkConfig,
    sink: impl Fn(Option<String>),
) -> Infallible {
    let mut said = None;
    loop {
        sleep(INTERVAL).await;
        let file = path.to_owned();
        let found = timeout(READ_TIMEOUT, spawn_blocking(move || read(&file, backend)));
        let Ok(Ok(found)) = found.await else { continue };
        let shown = path.display();
        let warning = match found {
            Ok(found) => in_use.difference(&found).map(|what| {
                format!(
                    "{shown} is not what this node runs with: {what}; restart to follow it, or \
                     change it back"
                )
            }),
            Err(error) => Some(format!(
                "{}; this node goes on with the config it has, but could not start again",
                error_chain(&error)
            )),
        };
        if warning != said {
            match &warning {
                Some(warning) => tracing::warn!("{warning}"),
                None => tracing::info!("{shown} is again what this node runs with"),
            }
            sink(warning.clone());
            said = warning;
        }
    }
}
