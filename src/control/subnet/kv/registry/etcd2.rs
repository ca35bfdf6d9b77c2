//! [`Etcd2Registry`]: the registry in etcd's v2 store, with the keys and values of stock flannel up
//! to 0.17.
//!
//! ```text
//! <prefix>/config                  the network config
//! <prefix>/subnets/10.5.52.0-24    one lease, with a TTL of 24 hours
//! ```
//!
//! A revision is etcd's index. A key has a TTL of its own, and there is no etcd lease: the
//! [`TtlLease`] of an entry with a TTL is the index at which it was created, which conditional writes
//! keep. docs/adr/0021 says what stock nodes need of a deletion.

mod answer;
mod servers;
mod watch;
#[cfg(test)]
pub(super) mod tests;

pub use self::watch::Etcd2Watch;

use std::num::NonZeroI64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;

use self::answer::{Code, Failure, Node};
use self::servers::{Answer, Servers, delete, get, put};
use super::bounds::{MAX_KEY_LEN, MAX_VALUE_LEN, shorten};
use super::etcd3::servers::Timings;
use super::{
    Entry, LEASE_TTL, Malformed, Read, Registry, RegistryError, Revision, Scope, Snapshot, StoreId,
    Stored, TtlLease, Write, read_entry,
};
use crate::control::config::etcd::{EtcdConfig, EtcdConfigError};
use crate::control::config::etcd::{clean_prefix, join};
use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseError, print_key};

/// By how much the time that etcd says is left may be less than what was asked for: it counts whole
/// seconds, on its own clock.
const MAX_INEXACT: Duration = Duration::from_secs(2);

/// The registry in etcd's v2 store.
pub struct Etcd2Registry {
    servers: Arc<Servers>,
    keys: Keys,
}

/// Where things are kept.
#[derive(Debug, Clone)]
struct Keys {
    config: String,
    /// Without a slash at the end.
    subnets: String,
}

/// When an entry that is written expires.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    Never,
    In(Duration),
}

impl Etcd2Registry {
    /// Checks endpoints and files. Nothing is sent: etcd may be down.
    ///
    /// # Errors
    /// [`EtcdConfigError`] naming the flag at fault.
    pub fn connect(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        Self::with_timings(config, Timings::DEFAULT)
    }

    /// One that waits for answers for as long as a slow machine may take.
    #[cfg(test)]
    pub(super) fn patient(config: &EtcdConfig) -> Self {
        Self::with_timings(config, Timings::PATIENT).unwrap()
    }

    pub(super) fn with_timings(
        config: &EtcdConfig,
        timings: Timings,
    ) -> Result<Self, EtcdConfigError> {
        let prefix = absolute(&clean_prefix(&config.prefix));
        let keys = Keys { config: join(&prefix, "config"), subnets: join(&prefix, "subnets") };
        Ok(Self { servers: Arc::new(Servers::new(config, timings)?), keys })
    }

    /// The value of `key`, where a network config may be.
    pub(super) async fn config_at(&self, key: &str) -> Result<Option<String>, RegistryError> {
        const OPERATION: &str = "read network config";
        match self.servers.read(OPERATION, &get(&absolute(key), false)).await?.result {
            Ok(action) if action.node.dir => {
                let reason = format!("etcd v2 key {key} is a directory");
                Err(RegistryError::Call { operation: OPERATION, reason })
            }
            Ok(action) => Ok(Some(action.node.value)),
            Err(failure) if failure.code() == Code::KeyNotFound => Ok(None),
            Err(failure) => Err(failed(OPERATION, &failure)),
        }
    }

    /// Whether the servers are etcd 2, which has no other API.
    pub(super) async fn is_etcd2(&self) -> bool {
        self.servers.version().await.is_some_and(|version| version.starts_with("2."))
    }

    /// The time by a server's clock, in whole seconds.
    pub(super) async fn clock(&self) -> Option<SystemTime> {
        let date = self.servers.date().await?;
        httpdate::parse_http_date(&date).ok()
    }

    async fn list_all(&self) -> Result<Snapshot, RegistryError> {
        let (answer, node) = self.find(OPERATION_LIST, &self.keys.subnets, true).await?;
        let nodes = node.map(|node| node.nodes).unwrap_or_default();
        let mut entries: Vec<Read> =
            nodes.into_iter().filter_map(|node| self.keys.read(node)).collect();
        entries.sort_by(|one, other| super::key_of(one).cmp(super::key_of(other)));
        Ok(Snapshot { store: answer.store, revision: answer.index, entries })
    }

    async fn list_one(&self, key: &str) -> Result<Snapshot, RegistryError> {
        let (answer, node) = self.find(OPERATION_LIST, &self.keys.full(key), false).await?;
        let entries = node.and_then(|node| self.keys.read(node)).into_iter().collect();
        Ok(Snapshot { store: answer.store, revision: answer.index, entries })
    }

    /// A key as it is now, if it exists.
    async fn find(
        &self,
        operation: &'static str,
        key: &str,
        is_recursive: bool,
    ) -> Result<(Answer, Option<Node>), RegistryError> {
        let mut answer = self.servers.call(operation, &get(key, is_recursive)).await?;
        match &mut answer.result {
            Ok(action) => {
                let node = std::mem::take(&mut action.node);
                Ok((answer, Some(node)))
            }
            Err(failure) if failure.code() == Code::KeyNotFound => Ok((answer, None)),
            Err(failure) => Err(failed(operation, failure)),
        }
    }

    /// The entry of `key` as it is now.
    async fn entry(&self, key: &str) -> Result<Option<Read>, RegistryError> {
        Ok(self.list_one(key).await?.entries.pop())
    }

    /// Writes `lease` if its entry is as the `condition` of the query says. Refused, or made by
    /// an attempt whose answer was lost.
    async fn put_if(
        &self,
        operation: &'static str,
        condition: &str,
        lease: Stored<Lease>,
        expiry: Expiry,
    ) -> Result<Write, RegistryError> {
        let start = Instant::now();
        let key = self.keys.full(&lease.entry.key);
        let request = put(&key, condition, &lease.attrs.to_json(), expiry.secs());
        let num_asked = AtomicU32::new(0);
        let answer = self.servers.call_counted(operation, &request, &num_asked).await?;
        match answer.result {
            Ok(action) => Ok(Write::Done(Stored { entry: self.keys.entry(&action.node), ..lease })),
            Err(failure) if failure.code() == Code::KeyNotFound => Ok(Write::Refused(None)),
            Err(failure) if matches!(failure.code(), Code::CompareFailed | Code::NodeExist) => {
                let (_, node) = self.find(operation, &key, false).await?;
                let is_ours = num_asked.load(Ordering::Relaxed) > 1
                    && node.as_ref().is_some_and(|node| {
                        node.value == lease.attrs.to_json()
                            && expiry.may_be_that_of(node, start.elapsed())
                    });
                match node {
                    // Nobody else writes this, and just now: an earlier server did as it was
                    // asked, but its answer was lost.
                    Some(node) if is_ours => {
                        Ok(Write::Done(Stored { entry: self.keys.entry(&node), ..lease }))
                    }
                    node => Ok(Write::Refused(node.and_then(|node| self.keys.read(node)))),
                }
            }
            Err(failure) => Err(failed(operation, &failure)),
        }
    }

    /// [`put_if`](Self::put_if) the entry is as `lease` was seen.
    async fn put_if_unchanged(
        &self,
        operation: &'static str,
        lease: Stored<Lease>,
        expiry: Expiry,
    ) -> Result<Write, RegistryError> {
        let Revision(seen) = lease.entry.revision;
        if seen <= 0 {
            // To etcd, index 0 is no condition at all.
            return Ok(Write::Refused(self.entry(&lease.entry.key).await?));
        }
        self.put_if(operation, &format!("prevIndex={seen}"), lease, expiry).await
    }
}

const OPERATION_LIST: &str = "list leases";

impl Registry for Etcd2Registry {
    type Watch = Etcd2Watch;

    fn config_name(&self) -> String {
        format!("etcd v2 key {}", self.keys.config)
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        self.config_at(&self.keys.config).await
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        let request = get(&self.keys.config, false);
        Ok(self.servers.read("ask for the etcd cluster id", &request).await?.store)
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        match scope {
            Scope::All => self.list_all().await,
            Scope::Key(key) => self.list_one(key).await,
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<Etcd2Watch, RegistryError> {
        Etcd2Watch::open(&self.servers, self.keys.clone(), scope.clone(), after).await
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Write, RegistryError> {
        let expires = Some(Instant::now() + LEASE_TTL);
        let entry = Entry {
            key: print_key(subnets),
            revision: Revision::UNKNOWN,
            ttl_lease: Some(TtlLease::UNKNOWN),
        };
        let Subnets { v4: subnet, v6: ipv6_subnet } = subnets;
        let lease =
            Stored { value: Lease { subnet, ipv6_subnet, attrs: attrs.clone(), expires }, entry };
        self.put_if("create lease", "prevExist=false", lease, Expiry::In(LEASE_TTL)).await
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        let lease = lease.clone().map(|it| Lease { attrs: attrs.clone(), ..it });
        if lease.is_reservation() {
            return self.put_if_unchanged("write reservation", lease, Expiry::Never).await;
        }
        let lease = lease.map(|it| Lease { expires: Some(Instant::now() + LEASE_TTL), ..it });
        self.put_if_unchanged("renew lease", lease, Expiry::In(LEASE_TTL)).await
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        const OPERATION: &str = "announce lease";
        let (_, node) = self.find(OPERATION, &self.keys.full(&lease.entry.key), false).await?;
        match node {
            Some(node) if node.modified_index == lease.entry.revision.0 => {
                let expiry = node.ttl().map_or(Expiry::Never, Expiry::In);
                self.put_if_unchanged(OPERATION, lease.clone(), expiry).await
            }
            node => Ok(Write::Refused(node.and_then(|node| self.keys.read(node)))),
        }
    }

    /// The expiry of an entry goes with the entry.
    async fn release(&self, _: TtlLease) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn time_left(&self, lease: &Stored<Lease>) -> Option<Duration> {
        let key = self.keys.full(&lease.entry.key);
        let (_, node) = self.find("read lease", &key, false).await.ok()?;
        node?.ttl()
    }

    async fn reconnect(&self) {
        self.servers.reconnect();
    }

    /// Without etcd's own condition: stock nodes take `compareAndDelete` for a bad lease, and stop
    /// following all others. What was deleted is known from the answer; if it is another's write
    /// of this very moment, it is put back.
    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        const OPERATION: &str = "delete lease";
        let (key, Revision(seen)) = (self.keys.full(&lease.entry.key), lease.entry.revision);
        let (_, node) = self.find(OPERATION, &key, false).await?;
        if node.is_none_or(|node| node.modified_index != seen) {
            return Ok(false);
        }
        let deleted = match self.servers.call(OPERATION, &delete(&key)).await?.result {
            Ok(action) => action.prev_node,
            // By a server whose answer was lost, or by somebody else.
            Err(failure) if failure.code() == Code::KeyNotFound => return Ok(true),
            Err(failure) => return Err(failed(OPERATION, &failure)),
        };
        match deleted {
            Some(node) if node.modified_index != seen => {
                let ttl = node.ttl().map(|ttl| ttl.as_secs());
                let request = put(&key, "prevExist=false", &node.value, ttl);
                self.servers.call("put back a lease", &request).await?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }
}

impl Expiry {
    fn secs(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::In(ttl) => Some(ttl.as_secs()),
        }
    }

    /// Whether a key that was written with this expiry `elapsed` ago at most may be like `node`.
    fn may_be_that_of(self, node: &Node, elapsed: Duration) -> bool {
        match (self, node.ttl()) {
            (Self::Never, None) => true,
            (Self::In(ttl), Some(left)) => left + elapsed + MAX_INEXACT >= ttl,
            (Self::Never, Some(_)) | (Self::In(_), None) => false,
        }
    }
}

impl Keys {
    fn full(&self, key: &str) -> String {
        format!("{}/{key}", self.subnets)
    }

    /// The key of an entry, less what all entries share; `None` for any other key, as in a
    /// directory below.
    fn short<'k>(&self, key: &'k str) -> Option<&'k str> {
        let short = key.strip_prefix(&self.subnets)?.strip_prefix('/')?;
        (!short.is_empty() && !short.contains('/')).then_some(short)
    }

    fn entry(&self, node: &Node) -> Entry {
        let key = shorten(self.short(&node.key).unwrap_or(&node.key).as_bytes());
        let created = NonZeroI64::new(node.created_index).map(TtlLease);
        let ttl_lease = node.ttl().and(created);
        Entry { key, revision: Revision(node.modified_index), ttl_lease }
    }

    /// A node as an entry; `None` for one that is none of ours.
    fn read(&self, node: Node) -> Option<Read> {
        let short = self.short(&node.key)?;
        let (key_len, value) = (short.len(), node.value.as_bytes());
        let entry = self.entry(&node);
        let reason = if node.dir {
            Some(LeaseError::Directory)
        } else if value.len() > MAX_VALUE_LEN {
            Some(LeaseError::TooLong(value.len()))
        } else {
            (key_len > MAX_KEY_LEN).then_some(LeaseError::Key)
        };
        Some(match reason {
            Some(reason) => Err(Malformed::new(entry, reason, value)),
            None => read_entry(entry, value),
        })
    }
}

/// What stays as it is in the path of a URL.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The path of a key in the API.
fn path_of(key: &str) -> String {
    format!("/v2/keys{}", utf8_percent_encode(key, PATH))
}

/// Keys of v2 are paths from the root, however they are written.
fn absolute(key: &str) -> String {
    format!("/{}", key.trim_start_matches('/'))
}

fn failed(operation: &'static str, failure: &Failure) -> RegistryError {
    RegistryError::Call { operation, reason: failure.to_string() }
}
