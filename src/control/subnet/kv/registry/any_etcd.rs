//! [`AnyEtcd`]: the registry in etcd, by the API whose store has the network config.
//!
//! One etcd has two stores, and what is written by the v2 API cannot be seen by v3. flannel up to
//! 0.17 uses v2, later ones v3. Unless the operator says which (`-etcd-api`), v3 is asked, then v2;
//! the first config that is found decides, once and for all. Until then everything goes by v3.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::etcd2::{Etcd2Registry, Etcd2Watch};
use super::etcd3::{EtcdRegistry, EtcdWatch};
use super::{
    Batch, LeaseWatch, Registry, RegistryError, Revision, Scope, Snapshot, StoreId, Stored,
    TtlLease, Write,
};
use crate::control::config::etcd::{EtcdApi, EtcdConfig, EtcdConfigError};
use crate::control::config::etcd::{clean_prefix, join};
use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs};

/// The prefixes that packages and tutorials use: flannel's own, that of CentOS and Fedora, and those
/// of two widespread guides.
const USUAL_PREFIXES: [&str; 4] =
    ["/coreos.com/network", "/atomic.io/network", "/flannel/network", "/kube-centos/network"];

/// How long the search for a config elsewhere may take. It only serves a message.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

/// The registry in etcd, by v3 or v2.
pub struct AnyEtcd {
    v3: EtcdRegistry,
    v2: Etcd2Registry,
    prefix: String,
    chosen: OnceLock<Api>,
}

/// A network config that this node does not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherConfig {
    /// Its key: `etcd v2 key /coreos.com/network/config`.
    pub(crate) place: String,
    /// Its prefix, and the API by which it is read.
    pub(crate) prefix: String,
    pub(crate) api: EtcdApi,
    /// The flags with which a node uses it.
    pub(crate) flags: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    V3,
    V2,
}

impl Api {
    const fn flag(self) -> &'static str {
        match self {
            Self::V3 => "--etcd-api=3",
            Self::V2 => "--etcd-api=2",
        }
    }

    const fn config(self) -> EtcdApi {
        match self {
            Self::V3 => EtcdApi::V3,
            Self::V2 => EtcdApi::V2,
        }
    }
}

/// A watch by the API that was in use when it began.
pub enum AnyEtcdWatch {
    /// By v3.
    V3(EtcdWatch),
    /// By v2.
    V2(Etcd2Watch),
}

/// Calls a method of the registry that is in use.
macro_rules! by_api {
    ($any:ident, $method:ident($($arg:expr),*)) => {
        match $any.api().await? {
            Api::V3 => $any.v3.$method($($arg),*).await,
            Api::V2 => $any.v2.$method($($arg),*).await,
        }
    };
}

impl AnyEtcd {
    /// Checks endpoints and files, and prepares connections. Nothing is sent: etcd may be down.
    ///
    /// # Errors
    /// [`EtcdConfigError`] naming the flag at fault.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        let (v3, v2) = (EtcdRegistry::connect(config).await?, Etcd2Registry::connect(config)?);
        Ok(Self::of(config, v3, v2))
    }

    fn of(config: &EtcdConfig, v3: EtcdRegistry, v2: Etcd2Registry) -> Self {
        let chosen = match config.api {
            EtcdApi::Auto => OnceLock::new(),
            EtcdApi::V3 => OnceLock::from(Api::V3),
            EtcdApi::V2 => OnceLock::from(Api::V2),
        };
        Self { v3, v2, prefix: clean_prefix(&config.prefix), chosen }
    }

    /// Other prefixes under which the v3 store has leases.
    pub async fn other_prefixes(&self) -> Vec<String> {
        let mut found = timeout(SEARCH_TIMEOUT, self.v3.prefixes()).await.unwrap_or_default();
        found.retain(|prefix| *prefix != self.prefix);
        found
    }

    /// The time by etcd's clock, in whole seconds.
    pub async fn clock(&self) -> Option<SystemTime> {
        timeout(SEARCH_TIMEOUT, self.v2.clock()).await.ok().flatten()
    }

    /// Whether the v2 store is in use.
    pub fn is_v2(&self) -> bool {
        self.chosen.get() == Some(&Api::V2)
    }

    /// What to ask, having looked which store has the config if that is not known yet.
    async fn api(&self) -> Result<Api, RegistryError> {
        if let Some(&api) = self.chosen.get() {
            return Ok(api);
        }
        self.find_config().await?;
        Ok(self.chosen.get().copied().unwrap_or(Api::V3))
    }

    /// The config of whichever store has one.
    async fn find_config(&self) -> Result<Option<String>, RegistryError> {
        match self.v3.config().await {
            Ok(Some(text)) => {
                self.chosen.get_or_init(|| Api::V3);
                return Ok(Some(text));
            }
            Ok(None) => {}
            Err(_) if self.v2.is_etcd2().await => {
                let text = self.v2.config().await?;
                return Ok(text.inspect(|_| self.choose_v2("etcd 2 has no v3 API")));
            }
            Err(error) => return Err(error),
        }
        match self.v2.config().await {
            Ok(text) => {
                let reason = || format!("{} does not exist", self.v3.config_name());
                Ok(text.inspect(|_| self.choose_v2(&reason())))
            }
            // Most servers do not serve v2 at all.
            Err(error) => {
                tracing::debug!("{error}");
                Ok(None)
            }
        }
    }

    fn choose_v2(&self, reason: &str) {
        self.chosen.get_or_init(|| {
            let found = self.v2.config_name();
            tracing::info!("{reason}, but {found} does: using the v2 API (--etcd-api=2)");
            Api::V2
        });
    }

    /// The configs under other usual prefixes and in the other store, those of the store in use
    /// first. A store that does not answer, or does not let us read, has none.
    pub(crate) async fn other_configs(&self) -> Vec<OtherConfig> {
        let chosen = self.chosen.get().copied();
        let [first, second] = match chosen {
            Some(Api::V2) => [Api::V2, Api::V3],
            Some(Api::V3) | None => [Api::V3, Api::V2],
        };
        let mut others = Vec::new();
        for api in [first, second] {
            let own = (api == second).then_some(self.prefix.as_str());
            let usual = USUAL_PREFIXES.into_iter().filter(|&usual| usual != self.prefix);
            for prefix in own.into_iter().chain(usual) {
                let key = join(prefix, "config");
                let (place, found) = match api {
                    Api::V3 => (format!("etcd key {key}"), self.v3.config_at(&key).await),
                    Api::V2 => (format!("etcd v2 key {key}"), self.v2.config_at(&key).await),
                };
                match found {
                    Ok(None) => continue,
                    Err(_) => break, // this server, or our role there, has no more to say
                    Ok(Some(_)) => {}
                }
                let of_prefix = (prefix != self.prefix).then(|| format!("--etcd-prefix={prefix}"));
                let is_other = chosen.is_some_and(|chosen| chosen != api);
                let of_api = is_other.then(|| api.flag().to_owned());
                let flags: Vec<String> = of_prefix.into_iter().chain(of_api).collect();
                let (prefix, flags) = (prefix.to_owned(), flags.join(" "));
                others.push(OtherConfig { place, prefix, api: api.config(), flags });
            }
        }
        others
    }
}

impl Registry for AnyEtcd {
    type Watch = AnyEtcdWatch;

    fn config_name(&self) -> String {
        match self.chosen.get() {
            Some(Api::V2) => self.v2.config_name(),
            Some(Api::V3) | None => self.v3.config_name(),
        }
    }

    /// Whether it will be v2 is not known yet at the start; the id of the store says.
    fn name_in_state(&self) -> String {
        self.v3.config_name()
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        match self.chosen.get() {
            Some(Api::V3) => self.v3.config().await,
            Some(Api::V2) => self.v2.config().await,
            None => self.find_config().await,
        }
    }

    async fn config_elsewhere(&self) -> Option<String> {
        let others = timeout(SEARCH_TIMEOUT, self.other_configs()).await.unwrap_or_default();
        let OtherConfig { place, flags, .. } = others.into_iter().next()?;
        Some(format!("{place} does: use {flags}"))
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        by_api!(self, identity())
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        by_api!(self, list(scope))
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<AnyEtcdWatch, RegistryError> {
        Ok(match self.api().await? {
            Api::V3 => AnyEtcdWatch::V3(self.v3.watch(scope, after).await?),
            Api::V2 => AnyEtcdWatch::V2(self.v2.watch(scope, after).await?),
        })
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Write, RegistryError> {
        by_api!(self, create(subnets, attrs))
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        by_api!(self, renew(lease, attrs))
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        by_api!(self, announce(lease))
    }

    async fn release(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        by_api!(self, release(ttl_lease))
    }

    async fn time_left(&self, lease: &Stored<Lease>) -> Option<Duration> {
        match self.api().await.ok()? {
            Api::V3 => self.v3.time_left(lease).await,
            Api::V2 => self.v2.time_left(lease).await,
        }
    }

    async fn reconnect(&self) {
        self.v3.reconnect().await;
        self.v2.reconnect().await;
    }

    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        by_api!(self, delete(lease))
    }
}

impl LeaseWatch for AnyEtcdWatch {
    fn store(&self) -> &StoreId {
        match self {
            Self::V3(watch) => watch.store(),
            Self::V2(watch) => watch.store(),
        }
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        match self {
            Self::V3(watch) => watch.next().await,
            Self::V2(watch) => watch.next().await,
        }
    }
}

#[cfg(test)]
mod tests;
