//! The state file: what this node knew of the overlay when it last ran.
//!
//! It is in the directory of subnet.env (`subnet.state.json` for `subnet.env`) and lets a node start while
//! its registry is away, with the subnet it had and the peers it knew. Its form is that of a
//! [`Document`], with members more: `registry`, `store` and `endpoints` say whose state it is, `own`
//! which of the leases is ours, `ttlLease` what its expiry is bound to, `written`, `boot` and `uptime`
//! how old it is. A peer's expiry is not in it, as nobody but the registry knows it.

mod clock;
mod recorder;

use ipnetwork::Ipv4Network;
pub(super) use recorder::Recorder;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Instant, timeout};

use self::clock::Written;
use crate::control::config::backend::BackendType;
use crate::control::config::network::{self, Subnets};
use crate::control::subnet::kv::config_wait::FoundConfig;
use crate::control::subnet::kv::list_watch::InitialLeases;
use crate::control::subnet::kv::registry::file::document::{Document, DocumentError, expires};
use crate::control::subnet::kv::registry::{
    Entry, LEASE_TTL, Registry, Revision, StoreId, Stored, TtlLease, read_entry,
};
use crate::control::subnet::lease::{Lease, LeaseAttrs, parse_key};
use crate::control::util::atomic_file::read_file;
use crate::control::util::log_limit::LogLimit;

/// How long the registry may take to say which store it is.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the state is kept, and whose it is.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    registry: String,
    /// Where that registry is; empty for one that has no servers.
    endpoints: Vec<String>,
    /// Which of the stores that may answer there it is, once that is known.
    store: Mutex<Option<String>>,
}

/// The overlay as this node last knew it.
#[derive(Debug)]
pub(crate) struct PersistedState {
    /// The network config.
    pub(crate) config: FoundConfig,
    /// The leases.
    pub(crate) past: PersistedLeases,
    /// The store that it was of.
    store: Option<String>,
    /// Where that store was.
    endpoints: Vec<String>,
}

/// The leases as this node last knew them. Their revisions are unknown.
#[derive(Debug)]
pub(crate) struct PersistedLeases {
    /// Our own.
    pub(crate) own: Stored<Lease>,
    /// Those of all other nodes.
    pub(crate) peers: Vec<Stored<Lease>>,
}

/// Why a state is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is that of {0}")]
    OtherRegistry(String),
    #[error("it has no usable network config")]
    Config,
    #[error("it does not say which lease is ours")]
    Own,
    #[error("subnet.env and network config do not agree with its subnet {0}")]
    OtherSubnet(Ipv4Network),
    #[error("lease {0} has expired")]
    Expired(Ipv4Network),
    #[error("the clock says {now}, but it was written at {written}: set the clock")]
    Clock { now: String, written: String },
    #[error("it is that of {then}, but {now} answers")]
    OtherStore { then: String, now: StoreId },
    #[error("it is that of the registry at {0}, and the endpoints given now are others")]
    OtherEndpoints(String),
}

impl PersistedLeases {
    /// What to start with. What our lease says of us may be new; the registry learns it when it is
    /// back.
    pub(super) fn resume(self, attrs: LeaseAttrs) -> (Stored<Lease>, InitialLeases) {
        (self.own.map(|it| Lease { attrs, ..it }), InitialLeases::Cached(self.peers))
    }
}

impl StateFile {
    /// That of the node which writes `subnet_file` and uses the registry of this name.
    pub(crate) fn next_to(subnet_file: &Path, registry: String) -> Self {
        let (endpoints, store) = (Vec::new(), Mutex::default());
        Self { path: Self::path_next_to(subnet_file), registry, endpoints, store }
    }

    /// The same for a registry at these URLs.
    pub(crate) fn at(self, urls: &[String]) -> Self {
        // One that speaks TLS now is the same still.
        let authority = |url: &String| url.rsplit('/').next().unwrap_or(url).to_owned();
        Self { endpoints: urls.iter().map(authority).collect(), ..self }
    }

    /// Hosts and ports of the registry; none for one that has no servers.
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Takes note of the store that answers. If another one was known, that is returned.
    pub(super) fn meet(&self, store: &StoreId) -> Option<String> {
        let mut known = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace(store.to_string()).filter(|known| *known != store.0)
    }

    /// Where the state of that node is: `subnet.state.json` for `subnet.env`.
    pub(crate) fn path_next_to(subnet_file: &Path) -> PathBuf {
        subnet_file.with_extension("state.json")
    }

    /// The subnets of our lease, even if the lease has expired: they are the ones to ask for again.
    pub(crate) fn own_subnets(&self) -> Option<Subnets> {
        let document = Document::parse(&read_file(&self.path).ok()?).ok()?;
        let is_of_registry = member(&document, "registry").as_ref() == Some(&self.registry);
        parse_key(&member(&document, "own").filter(|_| is_of_registry)?).ok()
    }

    /// What our entry's expiry was bound to. If nothing is any more, somebody has to give it back.
    pub(super) fn own_ttl_lease(&self) -> Option<TtlLease> {
        let document = Document::parse(&read_file(&self.path).ok()?).ok()?;
        let is_of_registry = member(&document, "registry").as_ref() == Some(&self.registry);
        member(&document, "ttlLease").filter(|_| is_of_registry)?.parse().ok().map(TtlLease)
    }

    /// Reads what can be relied on without asking the registry; `None` if there is no state.
    ///
    /// # Errors
    /// [`StateError`]. Not a reason to stop: there is the registry to be waited for.
    pub(crate) fn load(
        &self,
        previous: Option<Ipv4Network>,
        backend: Option<BackendType>,
    ) -> Result<Option<PersistedState>, StateError> {
        match read_file(&self.path) {
            Ok(text) => self.read(&text, previous, backend).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Read { path: self.path.clone(), source }),
        }
    }

    /// What the file's `text` says, as [`load`](Self::load).
    pub(crate) fn read(
        &self,
        text: &[u8],
        previous: Option<Ipv4Network>,
        backend: Option<BackendType>,
    ) -> Result<PersistedState, StateError> {
        let document = Document::parse(text)?;
        let registry: String = member(&document, "registry").unwrap_or_default();
        if registry != self.registry {
            return Err(StateError::OtherRegistry(registry));
        }
        let behind = match Written::read(&document) {
            Some(written) => written.behind(&Written::now())?,
            None => Duration::ZERO,
        };
        let text = document.member("config").ok_or(StateError::Config)?.to_owned();
        let network = network::parse(&text, backend).map_err(|_| StateError::Config)?;
        let own_key: String = member(&document, "own").ok_or(StateError::Own)?;
        let mut leases: Vec<Stored<Lease>> =
            document.entries().into_iter().filter_map(lease).collect();
        let place = leases.iter().position(|lease| lease.entry.key == own_key);
        let own = leases.remove(place.ok_or(StateError::Own)?);
        if previous != Some(own.subnet) || !network.accepts(own.subnets()) {
            return Err(StateError::OtherSubnet(own.subnet));
        }
        if own.expires.is_some_and(|expires| expires <= Instant::now() + behind) {
            return Err(StateError::Expired(own.subnet));
        }
        let expires = own.expires.map(|expires| expires - behind);
        let own = own.map(|it| Lease { expires, ..it });
        let endpoints =
            document.member("endpoints").and_then(|text| serde_json::from_str(text).ok());
        Ok(PersistedState {
            config: FoundConfig { text, network },
            past: PersistedLeases { own, peers: leases },
            store: member(&document, "store"),
            endpoints: endpoints.unwrap_or_default(),
        })
    }

    /// The same, if it is the state of a node with this public IP. Says in one line what becomes
    /// of it.
    pub(crate) async fn recall<R: Registry>(
        &self,
        registry: &R,
        previous: Option<Ipv4Network>,
        backend: Option<BackendType>,
        public_ip: Ipv4Addr,
        log: &mut LogLimit,
    ) -> Option<PersistedState> {
        let path = self.path.display();
        let useless = |reason: String| format!("{path} is of no use: {reason}");
        let loaded = match self.load(previous, backend) {
            Ok(Some(remembered)) => self.check_store(registry, remembered).await.map(Some),
            loaded => loaded,
        };
        let problem = match loaded {
            Ok(Some(remembered)) if remembered.past.own.attrs.public_ip() == public_ip => {
                let PersistedLeases { own, peers } = &remembered.past;
                tracing::warn!(
                    "registry does not answer, or takes no writes: starting with lease {} and {} \
                     peers from {path}; will settle with the registry when it does",
                    own.subnet,
                    peers.len(),
                );
                return Some(remembered);
            }
            Ok(Some(PersistedState { past: PersistedLeases { own, .. }, .. })) => {
                useless(format!("our public IP is no longer {}", own.attrs))
            }
            Ok(None) => return None,
            Err(error) => useless(error.to_string()),
        };
        if log.is_due(&problem) {
            tracing::warn!("{problem}");
        }
        None
    }

    /// Whether the state is that of the registry we are to use: the registry says so, or, where it
    /// does not answer, it is looked for where it was.
    async fn check_store<R: Registry>(
        &self,
        registry: &R,
        remembered: PersistedState,
    ) -> Result<PersistedState, StateError> {
        let PersistedState { store, endpoints, .. } = &remembered;
        let answer = timeout(IDENTITY_TIMEOUT, registry.identity()).await.ok().and_then(Result::ok);
        if let (Some(then), Some(now)) = (store, answer) {
            if *then != now.0 {
                return Err(StateError::OtherStore { then: then.clone(), now });
            }
        } else if !endpoints.is_empty()
            && !endpoints.iter().any(|endpoint| self.endpoints.contains(endpoint))
        {
            return Err(StateError::OtherEndpoints(endpoints.join(", ")));
        }
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store.clone();
        Ok(remembered)
    }

    /// The state as the text of its file.
    pub(crate) fn text<'a>(
        &self,
        config: &str,
        own: &Stored<Lease>,
        peers: impl Iterator<Item = &'a Stored<Lease>>,
    ) -> serde_json::Result<String> {
        let mut document = Document::default();
        document.set_member("registry", to_raw_value(&self.registry)?);
        if let Some(store) = &*self.store.lock().unwrap_or_else(PoisonError::into_inner) {
            document.set_member("store", to_raw_value(store)?);
        }
        if !self.endpoints.is_empty() {
            document.set_member("endpoints", to_raw_value(&self.endpoints)?);
        }
        Written::now().save(&mut document)?;
        document.set_member("own", to_raw_value(&own.entry.key)?);
        if let Some(TtlLease(id)) = own.entry.ttl_lease.filter(|id| *id != TtlLease::UNKNOWN) {
            document.set_member("ttlLease", to_raw_value(&id.to_string())?);
        }
        document.set_member("config", RawValue::from_string(config.to_owned())?);
        let (now, clock) = (Instant::now(), SystemTime::now());
        let left = own.expires.map(|at| at.saturating_duration_since(now));
        // A time too far for the clock comes from a file that says so.
        let expires = left.map(|left| clock.checked_add(left).unwrap_or(clock + LEASE_TTL));
        document.append(&own.entry.key, &own.attrs, expires)?;
        for peer in peers {
            document.append(&peer.entry.key, &peer.attrs, None)?;
        }
        Ok(document.to_string())
    }
}

fn member(document: &Document, name: &str) -> Option<String> {
    serde_json::from_str(document.member(name)?).ok()
}

/// One entry as a lease whose expiry, if it has one, is on our clock.
fn lease((key, raw): (&str, &RawValue)) -> Option<Stored<Lease>> {
    let expires = expires(raw).ok()?.map(|at| {
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        Instant::now() + left
    });
    let ttl_lease = expires.map(|_| TtlLease::UNKNOWN);
    let entry = Entry { key: key.to_owned(), revision: Revision::UNKNOWN, ttl_lease };
    let lease = read_entry(entry, raw.get().as_bytes()).ok()?;
    Some(lease.map(|it| Lease { expires, ..it }))
}

#[cfg(test)]
mod tests;
