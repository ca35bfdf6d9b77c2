//! The registry: whether it answers, the network, the leases, and other networks in it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::Ipv4Network;
use serde_json::json;
use tokio::time::timeout;

use crate::control::config::daemon::{Config, RegistryKind};
use crate::control::config::etcd::{EtcdApi, EtcdConfig};
use crate::control::config::network::{NetworkConfig, parse};
use crate::control::kube_manager;
use crate::control::observe::api::Status;
use crate::control::subnet::kube::check::ClusterView;
use crate::control::subnet::kube::manager::KubeManager;
use crate::control::subnet::kv::config_wait::{NotYet, read_config};
use crate::control::subnet::kv::registry::any_etcd::AnyEtcd;
use crate::control::subnet::kv::registry::file::FileRegistry;
use crate::control::subnet::kv::registry::{Registry, Scope, Snapshot};
use crate::control::util::error_chain::error_chain;

/// How long the registry may take to answer, each time.
const DEADLINE: Duration = Duration::from_secs(5);

/// Most other prefixes that are looked at.
const MAX_OTHERS: usize = 16;

/// What is known of the registry.
#[derive(Debug, Default)]
pub(in crate::control::cli) struct RegistryFacts {
    /// Where the config is: `etcd key /coreos.com/network/config`.
    pub(in crate::control::cli) name: String,
    /// Why it gives no answer.
    pub(in crate::control::cli) problem: Option<String>,
    /// How long it took to answer.
    pub(in crate::control::cli) took: Duration,
    /// The network.
    pub(in crate::control::cli) network: Option<NetworkConfig>,
    /// Why there is no network though the registry answers.
    pub(in crate::control::cli) no_network: Option<String>,
    /// Whether it is in etcd's v2 store.
    pub(in crate::control::cli) is_v2: bool,
    /// Every lease.
    pub(in crate::control::cli) leases: Vec<LeaseFact>,
    /// Entries that are no leases, a line each.
    pub(in crate::control::cli) malformed: Vec<String>,
    /// Other networks in the same etcd.
    pub(in crate::control::cli) others: Vec<OtherNetwork>,
    /// By how many seconds etcd's clock is ahead of ours.
    pub(in crate::control::cli) clock_ahead: Option<i64>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct LeaseFact {
    pub(in crate::control::cli) subnet: Ipv4Network,
    pub(in crate::control::cli) public_ip: Ipv4Addr,
    /// The backend, in lower case.
    pub(in crate::control::cli) backend: String,
}

/// A network under another prefix, or in the store of etcd's other API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct OtherNetwork {
    pub(in crate::control::cli) prefix: String,
    /// The number of its API, if that is not ours: each has a store of its own.
    pub(in crate::control::cli) other_api: Option<u8>,
    /// `None` if its config cannot be read.
    pub(in crate::control::cli) network: Option<Ipv4Network>,
    /// The public IPs in its leases.
    pub(in crate::control::cli) members: Vec<Ipv4Addr>,
}

impl RegistryFacts {
    /// Asks the registry that `config` names. What it does not answer is taken from the daemon's
    /// `status`.
    pub(in crate::control::cli) async fn read(config: &Config, status: Option<&Status>) -> Self {
        let mut facts = Self::read_registry(config).await;
        if let (Some(_), Some(status)) = (&facts.problem, status) {
            facts.take_status(status);
        }
        facts
    }

    async fn read_registry(config: &Config) -> Self {
        match &config.registry {
            RegistryKind::Etcd => match AnyEtcd::connect(&config.etcd).await {
                Ok(etcd) => {
                    let mut facts = Self::ask(config, &etcd).await;
                    if facts.problem.is_none() {
                        facts.is_v2 = etcd.is_v2();
                        facts.clock_ahead = etcd.clock().await.map(ahead);
                        facts.others = others(&config.etcd, &etcd).await;
                    }
                    facts
                }
                Err(error) => Self {
                    problem: Some(error_chain(&error)),
                    name: "etcd".to_owned(),
                    ..Self::default()
                },
            },
            RegistryKind::File(path) => Self::ask(config, &FileRegistry::new(path)).await,
            RegistryKind::Kubernetes(kube) => match kube_manager(config, kube) {
                Ok(manager) => Self::ask_cluster(&manager).await,
                Err(error) => Self {
                    problem: Some(error_chain(&error)),
                    name: "Kubernetes".to_owned(),
                    ..Self::default()
                },
            },
        }
    }

    async fn ask_cluster(manager: &KubeManager<'_>) -> Self {
        let start = Instant::now();
        let ClusterView { leases, malformed, fault, problems, .. } = manager.look(DEADLINE).await;
        Self {
            name: manager.source(),
            problem: fault.or_else(|| problems.into_iter().next()),
            took: start.elapsed(),
            network: Some(manager.network().clone()),
            leases: leases.iter().map(LeaseFact::of).collect(),
            malformed,
            ..Self::default()
        }
    }

    async fn ask<R: Registry>(config: &Config, registry: &R) -> Self {
        let start = Instant::now();
        let silent = || format!("it does not answer within {DEADLINE:?}");
        let found = timeout(DEADLINE, read_config(registry, config.backend)).await;
        let mut facts = Self { took: start.elapsed(), ..Self::default() };
        match found {
            Ok(Ok(found)) => facts.network = Some(found.network),
            Ok(Err(NotYet::Registry(error))) => facts.problem = Some(error.to_string()),
            Ok(Err(problem)) => facts.no_network = Some(problem.explain(registry).await),
            Err(_) => facts.problem = Some(silent()),
        }
        facts.name = registry.config_name();
        if facts.problem.is_none() {
            match timeout(DEADLINE, registry.list(&Scope::All)).await {
                Ok(Ok(listed)) => facts.take(&listed),
                Ok(Err(error)) => facts.problem = Some(error.to_string()),
                Err(_) => facts.problem = Some(silent()),
            }
        }
        facts
    }

    /// Network and leases as the daemon knows them. It does not say which settings the backend has:
    /// they are taken to be the defaults.
    fn take_status(&mut self, status: &Status) {
        let (Some(lease), Some(path)) = (&status.lease, &status.data_path) else { return };
        let backend = &path.backend;
        let config = json!({ "Network": lease.network, "Backend": { "Type": backend } });
        self.network = parse(&config.to_string(), None).ok();
        let fact = |subnet, public_ip, backend: &str| LeaseFact {
            subnet,
            public_ip,
            backend: backend.to_owned(),
        };
        let peers = status.peers.iter();
        self.leases = peers.map(|it| fact(it.subnet, it.public_ip, &it.backend)).collect();
        self.leases.push(fact(lease.subnet, lease.public_ip, backend));
    }

    fn take(&mut self, listed: &Snapshot) {
        self.leases = listed.leases().map(|lease| LeaseFact::of(lease)).collect();
        let malformed = listed.entries.iter().filter_map(|entry| entry.as_ref().err());
        self.malformed = malformed.map(ToString::to_string).collect();
    }
}

impl LeaseFact {
    fn of(lease: &crate::control::subnet::lease::Lease) -> Self {
        let attrs = &lease.attrs;
        let backend = attrs.backend_type.as_deref().unwrap_or("udp").to_lowercase();
        Self { subnet: lease.subnet, public_ip: attrs.public_ip(), backend }
    }
}

/// The networks under other prefixes, and those in the store of etcd's other API.
async fn others(config: &EtcdConfig, etcd: &AnyEtcd) -> Vec<OtherNetwork> {
    let configs = timeout(DEADLINE, etcd.other_configs()).await.unwrap_or_default();
    let mut places: Vec<(String, EtcdApi)> =
        configs.into_iter().map(|other| (other.prefix, other.api)).collect();
    places.extend(etcd.other_prefixes().await.into_iter().map(|prefix| (prefix, EtcdApi::V3)));
    places.sort_by_key(|(prefix, api)| (prefix.clone(), *api == EtcdApi::V2));
    places.dedup();
    let ours = if etcd.is_v2() { EtcdApi::V2 } else { EtcdApi::V3 };
    let mut found = Vec::new();
    for (prefix, api) in places.into_iter().take(MAX_OTHERS) {
        let config = EtcdConfig { prefix: prefix.clone(), api, ..config.clone() };
        let Ok(other) = AnyEtcd::connect(&config).await else { continue };
        let network = match timeout(DEADLINE, read_config(&other, None)).await {
            Ok(Ok(found)) => Some(found.network.v4.network),
            Ok(Err(NotYet::Invalid { .. })) => None,
            Ok(Err(NotYet::Missing { .. } | NotYet::Registry(_))) | Err(_) => continue,
        };
        let listed = timeout(DEADLINE, other.list(&Scope::All)).await;
        let listed = listed.ok().and_then(Result::ok);
        let leases = listed.iter().flat_map(Snapshot::leases);
        let members = leases.map(|lease| lease.attrs.public_ip()).collect();
        let other_api = (api != ours).then_some(if api == EtcdApi::V2 { 2 } else { 3 });
        found.push(OtherNetwork { prefix, other_api, network, members });
    }
    found
}

/// By how many seconds `time` is ahead of our clock.
fn ahead(time: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::now()) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}
