//! [`KvManager`]: the [`SubnetManager`] over a [`Registry`].
//!
//! A registry that answers is believed. While it does not, the node starts with the state that it
//! saved when it last ran.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::time::timeout;

use super::acquire;
use super::acquire::{Acquired, acquire_from, choose_own, list_leases};
use super::config_wait::{ConfigWait, FoundConfig, NotYet, POLL_INTERVAL, read_config};
use super::conflicts::ConflictTracker;
use super::held::{KvLease, Progress};
use super::list_watch::InitialLeases;
use super::registry::{Registry, Snapshot, Stored};
use super::renew::KeepPolicy;
use super::state_file::{PersistedLeases, PersistedState, StateFile};
use crate::control::config::backend::BackendType;
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::subnet::{AcquireError, SubnetManager};
use crate::control::util::log_limit::LogLimit;

/// How long the registry may take to answer before the node starts with its saved state.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the registry may take to list all leases before the node starts with its saved state.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the registry may fail to give us a lease before the node starts with its saved state.
const MAX_FAILURES: u32 = 3;

/// What a [`KvManager`] needs to know besides its registry.
#[derive(Debug)]
pub(crate) struct KvSettings {
    /// The registry's kind, as the log names it.
    pub(crate) kind: &'static str,
    /// Which backend to run, whatever the config says.
    pub(crate) backend: Option<BackendType>,
    /// The subnet that subnet.env names. Without it the registry has to be asked: where the file is
    /// gone, so is what containers use.
    pub(crate) in_use: Option<Subnets>,
    /// Keeps what the next start may need.
    pub(crate) state: StateFile,
    /// How the lease is kept.
    pub(crate) policy: KeepPolicy,
}

/// Leases in a registry.
#[derive(Debug)]
pub(crate) struct KvManager<'a, R> {
    registry: &'a R,
    settings: KvSettings,
    previous: Option<Subnets>,
    config_text: String,
    start: Option<Start>,
}

/// What a node starts from.
#[derive(Debug)]
enum Start {
    /// What it knew when it last ran.
    Persisted(PersistedLeases),
    /// What the registry has.
    Listed(Snapshot),
}

impl<'a, R: Registry> KvManager<'a, R> {
    pub(crate) fn new(registry: &'a R, settings: KvSettings) -> Self {
        let previous = settings.in_use.or_else(|| settings.state.own_subnets());
        Self { registry, settings, previous, config_text: String::new(), start: None }
    }

    /// All leases, or the saved ones if the registry fell silent after it gave us the config.
    async fn list(&self, network: &NetworkConfig, public_ip: Ipv4Addr) -> Start {
        match timeout(LIST_TIMEOUT, list_leases(self.registry)).await {
            Ok(listed) => Start::Listed(listed),
            Err(_) => match self.load(network, public_ip).await {
                Some(past) => Start::Persisted(past),
                None => Start::Listed(list_leases(self.registry).await),
            },
        }
    }

    async fn load(&self, network: &NetworkConfig, public_ip: Ipv4Addr) -> Option<PersistedLeases> {
        let backend = Some(network.backend.backend_type());
        // The config may be another since.
        let in_use = self.settings.in_use.map(|it| it.v4);
        let in_use = in_use.filter(|subnet| network.v4.accepts(*subnet));
        let (state, mut log) = (&self.settings.state, LogLimit::default());
        let loaded = state.recall(self.registry, in_use, backend, public_ip, &mut log);
        Some(loaded.await?.past)
    }

    /// A lease and all others, or the saved ones while the registry takes no writes and no entry says
    /// that the subnet has an owner.
    async fn write(
        &self,
        network: &NetworkConfig,
        attrs: LeaseAttrs,
        listed: Snapshot,
    ) -> Result<(Stored<Lease>, InitialLeases, Option<String>), acquire::AcquireError> {
        let acquire = |listed, max_failures| {
            acquire_from(self.registry, network, &attrs, self.previous, listed, max_failures)
        };
        let acquired = match acquire(listed, Some(MAX_FAILURES)).await {
            Err(acquire::AcquireError::NotWritten(_)) => {
                let listed = timeout(LIST_TIMEOUT, list_leases(self.registry)).await;
                let is_free = |subnet: Ipv4Network| {
                    let all = listed.iter().flat_map(Snapshot::leases);
                    !all.filter(|lease| lease.attrs.owner().is_some())
                        .any(|lease| lease.subnet.overlaps(subnet))
                };
                if self.settings.in_use.is_some_and(|it| is_free(it.v4))
                    && let Some(past) = self.load(network, attrs.public_ip()).await
                {
                    let (own, known) = past.resume(attrs);
                    return Ok((own, known, None));
                }
                let listed = match listed {
                    Ok(listed) => listed,
                    Err(_) => list_leases(self.registry).await,
                };
                acquire(listed, None).await?
            }
            other => other?,
        };
        let Acquired { lease, listed, rival } = acquired;
        self.settings.state.meet(&listed.store);
        Ok((lease, InitialLeases::Listed(listed), rival.map(|host| host.to_string())))
    }
}

impl<'a, R: Registry> SubnetManager for KvManager<'a, R> {
    type Held = KvLease<'a, R>;

    fn name(&self) -> String {
        let previous = self.previous.map_or("None".to_owned(), |subnet| subnet.to_string());
        format!("{} Local Manager with Previous Subnet: {previous}", self.settings.kind)
    }

    async fn config(&mut self, public_ip: impl AsyncFn() -> Option<Ipv4Addr>) -> NetworkConfig {
        let KvSettings { backend, in_use, state, .. } = &self.settings;
        let in_use = in_use.map(|it| it.v4);
        let mut log = LogLimit::default();
        let mut wait = ConfigWait::default();
        let mut first = Some(read_config(self.registry, *backend));
        let FoundConfig { text, network } = loop {
            let read = match first.take() {
                Some(first) => timeout(FIRST_ANSWER_TIMEOUT, first).await,
                None => Ok(wait.attempt(self.registry, *backend).await),
            };
            match read {
                Ok(Ok(found)) => break found,
                Ok(Err(NotYet::Missing { .. } | NotYet::Invalid { .. })) => {}
                // As often as the registry fails: the interface may be late, or the clock be set.
                Ok(Err(NotYet::Registry(_))) | Err(_) => {
                    if let Some(ip) = public_ip().await
                        && let Some(PersistedState { config, past, .. }) =
                            state.recall(self.registry, in_use, *backend, ip, &mut log).await
                    {
                        self.start = Some(Start::Persisted(past));
                        break config;
                    }
                }
            }
            if wait.has_waited() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        self.config_text = text;
        network
    }

    fn is_reachable(&self) -> bool {
        !matches!(self.start, Some(Start::Persisted(_)))
    }

    fn previous(&self) -> Option<Subnets> {
        self.previous
    }

    async fn own_attrs(
        &mut self,
        network: &NetworkConfig,
        public_ip: Ipv4Addr,
    ) -> Option<LeaseAttrs> {
        let start = match self.start.take() {
            Some(start) => start,
            None => self.list(network, public_ip).await,
        };
        match self.start.insert(start) {
            Start::Persisted(past) => Some(past.own.attrs.clone()),
            Start::Listed(listed) => {
                let own = choose_own(network, listed, public_ip, self.previous);
                own.map(|lease| lease.attrs.clone())
            }
        }
    }

    async fn acquire(
        mut self,
        network: &NetworkConfig,
        attrs: LeaseAttrs,
    ) -> Result<Self::Held, AcquireError> {
        let former = self.settings.state.own_ttl_lease();
        let start = match self.start.take() {
            Some(start) => start,
            None => self.list(network, attrs.public_ip()).await,
        };
        let (own, known, rival) = match start {
            Start::Persisted(past) => {
                let (own, known) = past.resume(attrs);
                (own, known, None)
            }
            Start::Listed(listed) => {
                let written = self.write(network, attrs, listed).await;
                written.map_err(|error| AcquireError(error.into()))?
            }
        };
        let claim = ConflictTracker::new(own.subnets(), own.attrs.public_ip());
        Ok(KvLease {
            registry: self.registry,
            network: network.clone(),
            config_text: self.config_text,
            former: former.filter(|former| own.entry.ttl_lease != Some(*former)),
            progress: RefCell::new(Progress::new(
                &own,
                matches!(known, InitialLeases::Listed(_)),
                rival,
            )),
            own,
            known: RefCell::new(Some(known)),
            claim,
            settings: self.settings,
        })
    }
}

#[cfg(test)]
impl<R> KvManager<'_, R> {
    /// As after [`config`](SubnetManager::config), which found this text or took it from `past`.
    pub(crate) fn after_config(self, text: &str, past: Option<PersistedLeases>) -> Self {
        Self { config_text: text.to_owned(), start: past.map(Start::Persisted), ..self }
    }
}
