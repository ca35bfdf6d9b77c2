//! [`EtcdRegistry`]: the registry in etcd v3, with the keys and values of stock flannel.
//!
//! ```text
//! <prefix>/config                  the network config
//! <prefix>/subnets/10.5.52.0-24    one lease, bound to an etcd lease of 24 hours
//! ```
//!
//! Only keys under `<prefix>/subnets/` are listed and read, with the slash. The watch is on all that
//! begin with `<prefix>/subnets`, as stock's is: what stock cannot read makes it forget its peers,
//! and then our lease is written again. Only subnet keys are written. etcd's own "lease", the expiry that a key is bound to, is a [`TtlLease`] here.

mod pages;
pub(super) mod servers;
mod stream;
mod ttl_leases;
pub(super) mod tls;

use crate::control::config::etcd;
use crate::control::config::etcd::{EtcdConfig, EtcdConfigError};
pub use stream::EtcdWatch;

use std::num::NonZeroI64;

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn,
    TxnOp, TxnOpResponse, TxnResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::Instant;

use self::servers::{Servers, Timings};
use self::ttl_leases::{Leftovers, says};
use super::bounds::{MAX_KEY_LEN, MAX_VALUE_LEN, shorten};
use super::{
    Entry, LEASE_TTL, Malformed, Read, Registry, RegistryError, Revision, Scope, Snapshot, StoreId,
    Stored, TtlLease, Write, read_entry,
};
use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseError, print_key};

/// Largest message taken from etcd. What is larger is asked for in pieces: a listing by shorter
/// pages, a watch by fragments, or by a new listing where etcd knows none (before 3.4).
const MAX_MESSAGE_LEN: usize = 8 << 20;

/// The registry in etcd.
pub struct EtcdRegistry {
    servers: Servers,
    keys: Keys,
    /// To be given back: an earlier attempt failed.
    leftovers: Leftovers,
}

/// Where things are kept.
#[derive(Debug, Clone)]
struct Keys {
    config: String,
    /// Ends in a slash.
    subnets: String,
}

impl EtcdRegistry {
    /// Checks endpoints and files, and prepares connections. Nothing is sent: etcd may be down.
    ///
    /// # Errors
    /// [`EtcdConfigError`] naming the flag at fault.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        Self::with_timings(config, Timings::DEFAULT).await
    }

    /// One that waits for answers for as long as a slow machine may take.
    #[cfg(test)]
    pub(crate) async fn patient(config: &EtcdConfig) -> Self {
        Self::with_timings(config, Timings::PATIENT).await.unwrap()
    }

    pub(super) async fn with_timings(
        config: &EtcdConfig,
        timings: Timings,
    ) -> Result<Self, EtcdConfigError> {
        let prefix = etcd::clean_prefix(&config.prefix);
        let keys = Keys {
            config: etcd::join(&prefix, "config"),
            subnets: etcd::join(&prefix, "subnets/"),
        };
        let servers = Servers::new(config, timings).await?;
        Ok(Self { servers, keys, leftovers: Leftovers::default() })
    }

    /// The value of `key`, where a network config may be.
    pub(super) async fn config_at(&self, key: &str) -> Result<Option<String>, RegistryError> {
        let get = |client| pages::get(client, key, GetOptions::new());
        let answer = self.servers.read("read network config", get).await?;
        Ok(answer.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
    }

    /// Writes `lease` with `attrs` if its entry is as `expected`.
    async fn put_if(
        &self,
        operation: &'static str,
        expected: Compare,
        lease: Stored<Lease>,
        options: PutOptions,
    ) -> Result<Write, RegistryError> {
        let name = self.keys.full(&lease.entry.key);
        let ttl_lease = lease.entry.ttl_lease;
        let put = TxnOp::put(name.clone(), lease.attrs.to_json(), Some(options));
        let transaction =
            Txn::new().when([expected]).and_then([put]).or_else([TxnOp::get(name, None)]);
        let answer =
            self.servers.call(operation, |client| txn(client, transaction.clone())).await?;
        if answer.succeeded() {
            let revision = Revision(answer.header().map_or(0, |header| header.revision()));
            let entry = Entry { revision, ..lease.entry };
            return Ok(Write::Done(Stored { entry, ..lease }));
        }
        let found = self.found(&answer);
        match &found {
            // It is there already, bound to the expiry that only we know: an earlier attempt
            // went through, but its answer got lost.
            Some(Ok(same))
                if ttl_lease.is_some()
                    && same.entry.ttl_lease == ttl_lease
                    && same.attrs == lease.attrs =>
            {
                Ok(Write::Done(Stored { entry: same.entry.clone(), ..lease }))
            }
            _ => Ok(Write::Refused(found)),
        }
    }

    /// The entry that a refused transaction found instead.
    fn found(&self, answer: &TxnResponse) -> Option<Read> {
        match answer.op_responses().into_iter().next()? {
            TxnOpResponse::Get(found) => Some(self.keys.read(found.kvs().first()?)),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        }
    }
}

impl Registry for EtcdRegistry {
    type Watch = EtcdWatch;

    fn config_name(&self) -> String {
        format!("etcd key {}", self.keys.config)
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        self.config_at(&self.keys.config).await
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        // Every role that can start a node can read this key. Its value is of no interest.
        let options = GetOptions::new().with_keys_only();
        let get = |client| pages::get(client, self.keys.config.clone(), options.clone());
        let answer = self.servers.read("ask for the etcd cluster id", get).await?;
        Ok(store_of(answer.header()))
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        match scope {
            Scope::All => self.list_all().await,
            Scope::Key(key) => self.list_one(self.keys.full(key)).await,
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<EtcdWatch, RegistryError> {
        let options = WatchOptions::new()
            .with_start_revision(after.0 + 1)
            .with_progress_notify()
            .with_fragment();
        let with_stocks = (self.keys.stocks(), options.clone().with_prefix());
        let ours = (self.keys.subnets.clone(), options.clone().with_range(self.keys.subnets_end()));
        let (range, narrower) = match scope {
            Scope::All => (with_stocks, Some(ours)),
            Scope::Key(key) => ((self.keys.full(key), options), None),
        };
        let watch = |client: Client| {
            let (range, narrower) = (range.clone(), narrower.clone());
            async move {
                self.servers.refresh_token(&client).await?;
                match (open(&client, range).await, narrower) {
                    // Our role may be for our keys alone.
                    (Err(error), Some(narrower)) if says(&error, "permission denied") => {
                        open(&client, narrower).await
                    }
                    (result, _) => result,
                }
            }
        };
        let stream = self.servers.call("watch leases", watch).await?;
        Ok(EtcdWatch::new(stream, self.keys.clone(), after, self.servers.timings))
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Write, RegistryError> {
        let expires = Instant::now() + LEASE_TTL;
        let granted = self.grant().await?;
        let ttl_lease = Some(granted.ttl_lease());
        let entry = Entry { key: print_key(subnets), revision: Revision::default(), ttl_lease };
        let absent = Compare::version(self.keys.full(&entry.key), CompareOp::Equal, 0);
        let Subnets { v4: subnet, v6: ipv6_subnet } = subnets;
        let (attrs, expires) = (attrs.clone(), Some(expires));
        let lease = Stored { value: Lease { subnet, ipv6_subnet, attrs, expires }, entry };
        let write = self.put_if("create lease", absent, lease, bound_to(ttl_lease)).await;
        self.revoke_unless_written(granted, &write).await;
        write
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        let seen = lease.entry.revision.0;
        let key = self.keys.full(&lease.entry.key);
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, seen);
        let lease = lease.clone().map(|it| Lease { attrs: attrs.clone(), ..it });
        let Some(ttl_lease) = lease.entry.ttl_lease else {
            return self.put_if("write reservation", unchanged, lease, bound_to(None)).await;
        };
        let expires = Some(Instant::now() + LEASE_TTL);
        if self.keep_alive(ttl_lease).await?.is_some_and(|ttl| ttl >= LEASE_TTL) {
            let options = bound_to(Some(ttl_lease));
            let lease = lease.map(|it| Lease { expires, ..it });
            return self.put_if("renew lease", unchanged, lease, options).await;
        }
        // The old expiry has struck, or it was granted for a shorter time by somebody else.
        let granted = self.grant().await?;
        let entry = Entry { ttl_lease: Some(granted.ttl_lease()), ..lease.entry.clone() };
        let options = bound_to(entry.ttl_lease);
        let lease = Stored { value: Lease { expires, ..lease.value }, entry };
        let write = self.put_if("renew lease", unchanged, lease, options).await;
        self.revoke_unless_written(granted, &write).await;
        if matches!(write, Ok(Write::Done(_))) {
            self.release_or_log(ttl_lease).await;
        }
        write
    }

    async fn time_left(&self, lease: &Stored<Lease>) -> Option<Duration> {
        let TtlLease(id) = lease.entry.ttl_lease?;
        let ask =
            |mut client: Client| async move { client.lease_time_to_live(id.get(), None).await };
        let left = self.servers.call("read etcd lease", ask).await.ok()?.ttl();
        u64::try_from(left).ok().map(Duration::from_secs)
    }

    async fn reconnect(&self) {
        self.servers.abandon_sessions().await;
    }

    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        let key = self.keys.full(&lease.entry.key);
        let seen = lease.entry.revision.0;
        let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, seen);
        let transaction = Txn::new().when([unchanged]).and_then([TxnOp::delete(key, None)]);
        let delete = |client| txn(client, transaction.clone());
        let is_deleted = self.servers.call("delete lease", delete).await?.succeeded();
        if let Some(ttl_lease) = lease.entry.ttl_lease.filter(|_| is_deleted) {
            self.release_or_log(ttl_lease).await;
        }
        Ok(is_deleted)
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        let key = self.keys.full(&lease.entry.key);
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, lease.entry.revision.0);
        let same_expiry = PutOptions::new().with_ignore_lease();
        self.put_if("announce lease", unchanged, lease.clone(), same_expiry).await
    }

    async fn release(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        self.revoke_if_unused(ttl_lease).await
    }
}

/// Begins a watch on what a key and its options select.
async fn open(
    client: &Client,
    (key, options): (String, WatchOptions),
) -> Result<(WatchStream, WatchResponse), Error> {
    let mut watches = client.watch_client().max_decoding_message_size(MAX_MESSAGE_LEN);
    let mut stream = watches.watch(key, Some(options)).await?;
    // A server acknowledges a new watch at once.
    match stream.message().await? {
        Some(first) if first.canceled() && first.compact_revision() == 0 => {
            Err(Error::WatchError(first.cancel_reason().to_owned()))
        }
        Some(first) => Ok((stream, first)),
        None => Err(Error::WatchError("the server closed the stream".to_owned())),
    }
}

impl Keys {
    /// What stock watches the keys that begin with.
    fn stocks(&self) -> String {
        self.subnets.trim_end_matches('/').to_owned()
    }

    /// Where the keys of the entries end, exclusively: `0` follows `/`.
    fn subnets_end(&self) -> String {
        format!("{}0", self.stocks())
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.subnets)
    }

    /// A key of etcd's, less what all entries share.
    fn short(&self, key: &[u8]) -> String {
        shorten(key.strip_prefix(self.subnets.as_bytes()).unwrap_or(key))
    }

    fn read(&self, kv: &KeyValue) -> Read {
        let len = kv.value().len();
        if len > MAX_VALUE_LEN {
            return Err(self.malformed(kv, LeaseError::TooLong(len)));
        }
        let (key, revision) = (self.short(kv.key()), Revision(kv.mod_revision()));
        if kv.key_str().is_err() || kv.key().len() > self.subnets.len() + MAX_KEY_LEN {
            // It could be listed but not written to: `short` is not all of it.
            return Err(self.malformed(kv, LeaseError::Key));
        }
        read_entry(Entry { key, revision, ttl_lease: ttl_lease(kv.lease()) }, kv.value())
    }

    fn malformed(&self, kv: &KeyValue, reason: LeaseError) -> Malformed {
        let (key, revision) = (self.short(kv.key()), Revision(kv.mod_revision()));
        Malformed::new(Entry { key, revision, ttl_lease: None }, reason, kv.value())
    }
}

async fn txn(mut client: Client, transaction: Txn) -> Result<TxnResponse, Error> {
    client.txn(transaction).await
}

fn bound_to(ttl_lease: Option<TtlLease>) -> PutOptions {
    PutOptions::new().with_lease(ttl_lease.map_or(0, |TtlLease(id)| id.get()))
}

fn ttl_lease(id: i64) -> Option<TtlLease> {
    NonZeroI64::new(id).map(TtlLease)
}

/// As `etcdctl` prints a cluster's id.
fn store_of(header: Option<&ResponseHeader>) -> StoreId {
    let id = header.map_or(0, ResponseHeader::cluster_id);
    StoreId(format!("etcd cluster {id:x}"))
}

#[cfg(test)]
mod tests;
