//! etcd's own leases: granted, kept alive, and given back, so that none is left behind.
//!
//! We choose the id of what we are granted. So an etcd lease whose grant was not answered can be
//! given back, too.

use std::num::NonZeroI64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, Error, LeaseGrantOptions, LeaseTimeToLiveOptions};
use rand::Rng;

use super::EtcdRegistry;
use crate::control::subnet::kv::registry::{LEASE_TTL, RegistryError, TtlLease, Write};
use crate::control::util::rng::rng;

/// Ids of etcd leases that may exist and that no entry of ours is bound to.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Vec<TtlLease>>);

/// An etcd lease for an entry still to be written. It is left over unless it is [`bound`].
///
/// [`bound`]: Granted::bound
#[derive(Debug)]
pub(super) struct Granted<'a> {
    ttl_lease: TtlLease,
    leftovers: Option<&'a Leftovers>,
}

impl Leftovers {
    fn push(&self, ttl_lease: TtlLease) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(ttl_lease);
    }

    fn pop(&self) -> Option<TtlLease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl<'a> Granted<'a> {
    fn new(leftovers: &'a Leftovers) -> Self {
        let id = rng().random_range(1..=i64::MAX);
        let ttl_lease = TtlLease(NonZeroI64::new(id).unwrap_or(NonZeroI64::MAX));
        Self { ttl_lease, leftovers: Some(leftovers) }
    }

    pub(super) const fn ttl_lease(&self) -> TtlLease {
        self.ttl_lease
    }

    /// An entry is bound to it, or it exists no more.
    fn bound(mut self) {
        self.leftovers = None;
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if let Some(leftovers) = self.leftovers {
            leftovers.push(self.ttl_lease);
        }
    }
}

impl EtcdRegistry {
    /// A new expiry, [`LEASE_TTL`] from now. What earlier attempts left over is given back first:
    /// however often we fail, there are never more of them than attempts at one time.
    pub(super) async fn grant(&self) -> Result<Granted<'_>, RegistryError> {
        while let Some(ttl_lease) = self.leftovers.pop() {
            let leftover = Granted { ttl_lease, leftovers: Some(&self.leftovers) };
            self.revoke_if_unused(ttl_lease).await?;
            leftover.bound();
        }
        let granted = Granted::new(&self.leftovers);
        let ttl = i64::try_from(LEASE_TTL.as_secs()).unwrap_or(i64::MAX);
        let options = LeaseGrantOptions::new().with_id(granted.ttl_lease.0.get());
        let grant = |mut client: Client| {
            let options = options.clone();
            async move {
                match client.lease_grant(ttl, Some(options)).await {
                    // The server asked before granted it, and its answer was lost.
                    Err(error) if says(&error, "lease already exists") => Ok(()),
                    result => result.map(drop),
                }
            }
        };
        self.servers.call("grant etcd lease", grant).await?;
        Ok(granted)
    }

    /// Puts an expiry off and tells when it is then; `None` when it has struck already.
    pub(super) async fn keep_alive(
        &self,
        ttl_lease: TtlLease,
    ) -> Result<Option<Duration>, RegistryError> {
        if ttl_lease == TtlLease::UNKNOWN {
            return Ok(None);
        }
        let id = ttl_lease.0.get();
        let keep_alive = |mut client: Client| async move {
            let (mut keeper, mut answers) = match client.lease_keep_alive(id).await {
                Err(Error::LeaseKeepAliveError(_)) => return Ok(None),
                result => result?,
            };
            // The client has read the answer to the first request, and kept the TTL to itself.
            keeper.keep_alive().await?;
            let ttl = answers.message().await?.map_or(0, |answer| answer.ttl());
            Ok(u64::try_from(ttl).ok().filter(|&ttl| ttl > 0).map(Duration::from_secs))
        };
        self.servers.call("keep etcd lease alive", keep_alive).await
    }

    /// Gives an expiry back unless a key is bound to it.
    pub(super) async fn revoke_if_unused(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        let id = ttl_lease.0.get();
        let ask = |mut client: Client| async move {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let found = client.lease_time_to_live(id, Some(options)).await?;
            Ok(found.ttl() >= 0 && found.keys().is_empty())
        };
        match self.servers.call("read etcd lease", ask).await? {
            true => self.revoke(ttl_lease).await,
            false => Ok(()),
        }
    }

    /// Gives an expiry back, with what is bound to it.
    async fn revoke(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        let id = ttl_lease.0.get();
        let revoke = |mut client: Client| async move {
            match client.lease_revoke(id).await {
                Err(error) if says(&error, "lease not found") => Ok(()),
                result => result.map(drop),
            }
        };
        self.servers.call("revoke etcd lease", revoke).await
    }

    /// Gives back what no entry is bound to any more. What stays strikes by itself.
    pub(super) async fn release_or_log(&self, ttl_lease: TtlLease) {
        if let Err(error) = self.revoke_if_unused(ttl_lease).await {
            tracing::debug!("{error}");
        }
    }

    /// A write that failed may still have been made: revoking its expiry undoes it, too.
    pub(super) async fn revoke_unless_written(
        &self,
        granted: Granted<'_>,
        write: &Result<Write, RegistryError>,
    ) {
        if matches!(write, Ok(Write::Done(_))) {
            return granted.bound();
        }
        match self.revoke(granted.ttl_lease).await {
            Ok(()) => granted.bound(),
            Err(error) => tracing::debug!("{error}"),
        }
    }
}

/// Whether etcd refused something in these words (`api/v3rpc/rpctypes/error.go`).
pub(super) fn says(error: &Error, words: &str) -> bool {
    let is_said = |said: &str| said.contains(words);
    matches!(error, Error::GRpcStatus(status) if is_said(status.message()))
        || matches!(error, Error::WatchError(reason) if is_said(reason))
}
