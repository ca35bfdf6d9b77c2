//! Waits until there is a network config that can be used.

use std::time::Duration;

use crate::control::config::backend::BackendType;
use crate::control::config::network::{ConfigError, NetworkConfig, parse};
use crate::control::subnet::kv::registry::{Registry, RegistryError};
use crate::control::util::log_limit::LogLimit;

/// How often the config is looked at: flannel's `main.go` waits one second, too.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A network config, and the text that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundConfig {
    /// What the operator wrote.
    pub text: String,
    /// What it means.
    pub network: NetworkConfig,
}

/// Why there is no config to start with yet.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum NotYet {
    #[error("{name} does not exist")]
    Missing { name: String },
    #[error("{name}: {error}")]
    Invalid { name: String, error: ConfigError },
    #[error("{}", .0.reason())]
    Registry(RegistryError),
}

impl NotYet {
    /// What is wrong, and where else there is a config if there is none here.
    pub(crate) async fn explain<R: Registry>(&self, registry: &R) -> String {
        let elsewhere = match self {
            Self::Missing { .. } => registry.config_elsewhere().await,
            Self::Invalid { .. } | Self::Registry(_) => None,
        };
        match elsewhere {
            Some(elsewhere) => format!("{self}, but {elsewhere}"),
            None => self.to_string(),
        }
    }
}

/// The network config, as soon as there is one without fault. Waits for ever if need be, and
/// says what for: each different problem once, and again after a minute.
///
/// # Cancel safety
/// Nothing is changed; it may be dropped at any time.
pub async fn wait_for_config<R: Registry>(
    registry: &R,
    backend: Option<BackendType>,
) -> FoundConfig {
    let mut wait = ConfigWait::default();
    loop {
        if let Ok(found) = wait.attempt(registry, backend).await {
            return found;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Reads the network config again and again, and says what it waits for.
#[derive(Debug, Default)]
pub(crate) struct ConfigWait {
    log: LogLimit,
    has_waited: bool,
}

impl ConfigWait {
    /// Whether an attempt has failed: the next one should wait.
    pub(crate) const fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// The network config as it is now.
    ///
    /// # Errors
    /// [`NotYet`] when there is none that can be used.
    pub(crate) async fn attempt<R: Registry>(
        &mut self,
        registry: &R,
        backend: Option<BackendType>,
    ) -> Result<FoundConfig, NotYet> {
        let read = read_config(registry, backend).await;
        match &read {
            Ok(_) if self.has_waited => {
                tracing::info!("{} is right now, going on", registry.config_name());
            }
            Ok(_) => {}
            Err(problem) => {
                if self.log.is_due(&problem.to_string()) {
                    let problem = problem.explain(registry).await;
                    tracing::warn!(
                        "Couldn't fetch network config: {problem}; \
                         waiting; will go on by itself once it is right"
                    );
                }
                self.has_waited = true;
            }
        }
        read
    }
}

/// The network config as it is now.
///
/// # Errors
/// [`NotYet`] when there is none that can be used.
pub async fn read_config<R: Registry>(
    registry: &R,
    backend: Option<BackendType>,
) -> Result<FoundConfig, NotYet> {
    let name = || registry.config_name();
    let text = registry.config().await.map_err(NotYet::Registry)?;
    let text = text.ok_or_else(|| NotYet::Missing { name: name() })?;
    match parse(&text, backend) {
        Ok(network) => Ok(FoundConfig { text, network }),
        Err(error) => Err(NotYet::Invalid { name: name(), error }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
    use crate::control::util::test_log::Logs;

    #[tokio::test(start_paused = true)]
    async fn waiting_outlasts_every_problem_and_names_each_once() {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        registry.fail_next(3, Fault::NotAsked);
        let operator = async {
            for text in ["oops", r#"{"Network":"10.1.0.0/29"}"#, r#"{"Network":"10.1.0.0/16"}"#] {
                tokio::time::sleep(Duration::from_secs(30)).await;
                registry.set_config(text);
            }
        };
        let (config, ()) = tokio::join!(wait_for_config(&registry, None), operator);
        assert_eq!(config.network.v4.network.to_string(), "10.1.0.0/16");
        for problem in [
            "network config: not asked; waiting",
            "network config in memory does not exist; waiting",
            "network config in memory: not a network config: expected value at line 1 column 1; waiting",
            "network config in memory: Network: 10.1.0.0/29 is longer than /28",
            "network config in memory is right now, going on",
        ] {
            assert_eq!(logs.count(problem), 1, "{problem}");
        }
        assert_eq!(logs.count("will go on by itself once it is right"), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_problem_is_named_once_a_minute() {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        let wait = wait_for_config(&registry, None);
        assert!(tokio::time::timeout(Duration::from_secs(150), wait).await.is_err());
        assert_eq!(logs.count("does not exist"), 3);
    }
}
