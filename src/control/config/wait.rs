//! Waits until there is a network config that can be used.

use std::time::Duration;

use super::{BackendType, ConfigError, NetworkConfig, parse};
use crate::control::log_limit::LogLimit;
use crate::control::registry::{Registry, RegistryError};

/// How often the config is looked at: flannel's `main.go` waits one second, too.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no config to start with yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error("{name} does not exist")]
    Missing { name: String },
    #[error("{name}: {error}")]
    Invalid { name: String, error: ConfigError },
    #[error(transparent)]
    Registry(RegistryError),
}

/// The network config, as soon as there is one without fault. Waits for ever if need be, and
/// says what for: each different problem once, and again after a minute.
///
/// # Cancel safety
/// Nothing is changed; it may be dropped at any time.
pub async fn wait_for_config<R: Registry>(
    registry: &R,
    backend: Option<BackendType>,
) -> NetworkConfig {
    let mut log = LogLimit::default();
    let mut has_waited = false;
    loop {
        match read_config(registry, backend).await {
            Ok(config) => {
                if has_waited {
                    tracing::info!("{} is right now, going on", registry.config_name());
                }
                return config;
            }
            Err(problem) => {
                let problem = problem.to_string();
                if log.is_due(&problem) {
                    tracing::warn!(
                        "Couldn't fetch network config: {problem}; \
                         waiting; will go on by itself once it is right"
                    );
                }
                has_waited = true;
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn read_config<R: Registry>(
    registry: &R,
    backend: Option<BackendType>,
) -> Result<NetworkConfig, NotYet> {
    let name = || registry.config_name();
    let text = registry.config().await.map_err(NotYet::Registry)?;
    let text = text.ok_or_else(|| NotYet::Missing { name: name() })?;
    parse(&text, backend).map_err(|error| NotYet::Invalid { name: name(), error })
}
