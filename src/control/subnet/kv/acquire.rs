//! Gets this node its lease: the one it has, the one it had, or a new one.

mod challenge;
mod previous;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnetwork::{Ipv4Network, Ipv6Network};
use tokio::time::{Instant, timeout};

use self::previous::taken_by;
use super::allocate;
use super::registry::{
    Entry, LEASE_TTL, Registry, RegistryError, Revision, Scope, Snapshot, Stored, TtlLease, Write,
};
use crate::control::config::network::{NetworkConfig, SubnetRange, Subnets};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::{Lease, LeaseAttrs, print_key};
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::rng::rng;
use crate::control::util::time_text;
use crate::routes::Prefix;

/// How long the renewal of a lease that exists already may take before we go on without it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no lease for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Other nodes hold every subnet.
    #[error(
        "out of subnets: none of /{len} is free in {min} ... {max}, as {taken} leases stand; \
         widen the network config or delete the leases of nodes that are gone"
    )]
    OutOfSubnets {
        /// `SubnetLen`.
        len: u8,
        /// `SubnetMin`, or the same of IPv6.
        min: IpAddr,
        /// `SubnetMax`, or the same of IPv6.
        max: IpAddr,
        /// How many entries there are, in that range or not.
        taken: usize,
    },
    /// The registry failed several times in a row, and the caller has something else to start
    /// with.
    #[error("acquire lease: {0}")]
    NotWritten(RegistryError),
}

/// A lease, and what else there was when it was acquired.
#[derive(Debug)]
pub struct Acquired {
    /// The lease of this node.
    pub lease: Stored<Lease>,
    /// The listing that led to it, in which the lease is not yet as it is now. To list
    /// everything again would cost as much as all the rest of a start.
    pub listed: Snapshot,
    /// The live host that has another lease with our public IP, which we therefore left to it.
    pub rival: Option<HostId>,
}

/// Acquires a lease for the node that `attrs` describes.
///
/// In this order, as stock flannel (`pkg/subnet/etcd/local_manager.go`): the lease that carries
/// our public IP already, of several that of the subnet we had before (`previous`); that subnet, if
/// it is free; any free one. A lease of ours that the network config no longer allows is deleted.
/// Before all that comes the subnet we had before if its entry names no owner: it is ours, and
/// somebody overwrote it.
///
/// A write that came too late, or a registry that does not answer, makes it start over, for as
/// long as it takes. A lease that exists already is enough if it cannot be renewed now.
///
/// # Errors
/// [`AcquireError::OutOfSubnets`] and nothing else.
///
/// # Cancel safety
/// Dropped half-way, it may leave a lease behind, which the next call finds by its public IP.
pub async fn acquire_lease<R: Registry>(
    registry: &R,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<Subnets>,
) -> Result<Acquired, AcquireError> {
    let listed = list_leases(registry).await;
    acquire_from(registry, config, attrs, previous, listed, None).await
}

/// Everything the registry has, as soon as it says so.
///
/// # Cancel safety
/// Nothing is changed; it may be dropped at any time.
pub(crate) async fn list_leases<R: Registry>(registry: &R) -> Snapshot {
    let (mut backoff, mut log) = (Backoff::of_registry(), LogLimit::default());
    loop {
        match registry.list(&Scope::All).await {
            Ok(listed) => return listed,
            Err(error) if log.is_due(error.kind()) => {
                tracing::warn!("acquire lease: {error}; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// The same as [`acquire_lease`] when everything was `listed` just now. Gives up after
/// `max_failures` of the registry, if that is given.
///
/// # Errors
/// As [`acquire_lease`], and [`AcquireError::NotWritten`].
///
/// # Cancel safety
/// As [`acquire_lease`].
pub(crate) async fn acquire_from<R: Registry>(
    registry: &R,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<Subnets>,
    listed: Snapshot,
    max_failures: Option<u32>,
) -> Result<Acquired, AcquireError> {
    let (listed, log) = (Some(listed), LogLimit::default());
    let mut acquirer = Acquirer {
        registry,
        config,
        attrs,
        previous,
        listed,
        rivals: Vec::new(),
        rival: None,
        log,
    };
    let mut lost_race = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let (mut failure, mut num_failures) = (Backoff::of_registry(), 0);
    loop {
        let delay = match acquirer.attempt().await {
            Ok((Attempt::Acquired(lease), listed)) => {
                return Ok(Acquired { lease, listed, rival: acquirer.rival });
            }
            Ok((Attempt::OutOfSubnets(error), _)) => return Err(error),
            Ok((Attempt::TooLate(what), _)) => {
                tracing::debug!("{what} changed under our hands, starting over");
                lost_race.delay()
            }
            Err(error) => {
                if acquirer.log.is_due(error.kind()) {
                    tracing::warn!("acquire lease: {error}; trying again");
                }
                num_failures += 1;
                if max_failures.is_some_and(|max| num_failures >= max) {
                    return Err(AcquireError::NotWritten(error));
                }
                failure.delay()
            }
        };
        tokio::time::sleep(delay).await;
    }
}

/// The first few of many keys.
fn shorten(keys: &[&str]) -> String {
    const MAX_SHOWN: usize = 8;
    let shown = keys[..keys.len().min(MAX_SHOWN)].join(", ");
    match keys.len().saturating_sub(MAX_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

struct Acquirer<'a, R> {
    registry: &'a R,
    config: &'a NetworkConfig,
    attrs: &'a LeaseAttrs,
    previous: Option<Subnets>,
    /// A listing that no attempt has used yet.
    listed: Option<Snapshot>,
    /// Keys of leases that carry our public IP and are another live host's.
    rivals: Vec<String>,
    rival: Option<HostId>,
    log: LogLimit,
}

enum Attempt {
    Acquired(Stored<Lease>),
    /// The entry of this subnet is no longer what the listing said.
    TooLate(Ipv4Network),
    OutOfSubnets(AcquireError),
}

/// Whether a node takes up the lease `own`, which carries its public IP, rather than delete it. A
/// key with more to it than the subnets is not one we would write.
pub(crate) fn is_reusable(config: &NetworkConfig, own: &Stored<Lease>) -> bool {
    config.accepts(own.subnets()) && own.entry.key == print_key(own.subnets())
}

/// Which of the leases that carry `public_ip` its node takes up: of those that it can, that of its
/// `previous` subnet, else the first. One that it cannot take up is returned only if all are such.
pub(crate) fn choose_own<'a>(
    config: &NetworkConfig,
    listed: &'a Snapshot,
    public_ip: Ipv4Addr,
    previous: Option<Subnets>,
) -> Option<&'a Stored<Lease>> {
    let own = listed.leases().filter(|lease| lease.attrs.public_ip() == public_ip);
    own.min_by_key(|lease| own_rank(config, lease, previous))
}

/// Of two leases that carry our public IP, we take up that with the lower rank.
fn own_rank(
    config: &NetworkConfig,
    lease: &Stored<Lease>,
    previous: Option<Subnets>,
) -> (bool, bool) {
    (!is_reusable(config, lease), Some(lease.subnet) != previous.map(|it| it.v4))
}

impl<R: Registry> Acquirer<'_, R> {
    async fn attempt(&mut self) -> Result<(Attempt, Snapshot), RegistryError> {
        let listed = match self.listed.take() {
            Some(listed) => listed,
            None => self.registry.list(&Scope::All).await?,
        };
        if let Some((previous, overwritten)) = self.overwritten(&listed) {
            let attempt = self.take_back(previous, overwritten).await?;
            return Ok((attempt, listed));
        }
        let own = self.choose_own(&listed);
        let attempt = match own {
            Some(own) if is_reusable(self.config, own) => {
                self.warn_of_others(own, &listed);
                self.reuse(own).await?
            }
            Some(own) => self.give_up(own).await?,
            None => self.create(&listed).await?,
        };
        Ok((attempt, listed))
    }

    /// As [`choose_own`], but one that names another host comes last, one that a live host claimed
    /// is not ours at all, and with no previous subnet among them one that names us comes first.
    fn choose_own<'s>(&self, listed: &'s Snapshot) -> Option<&'s Stored<Lease>> {
        let own = listed.leases().filter(|lease| {
            lease.attrs.public_ip() == self.attrs.public_ip()
                && !self.rivals.contains(&lease.entry.key)
        });
        own.min_by_key(|lease| {
            let is_others = self.other_host(lease).is_some();
            let host = HostId::read(&lease.attrs);
            let names_us = host.is_some() && host == HostId::read(self.attrs);
            (is_others, own_rank(self.config, lease, self.previous), !names_us)
        })
    }

    /// Several leases with our public IP: somebody left them, or another host has that IP, too.
    fn warn_of_others(&mut self, own: &Stored<Lease>, listed: &Snapshot) {
        let others = listed.leases().filter(|lease| {
            lease.attrs.public_ip() == self.attrs.public_ip() && lease.entry.key != own.entry.key
        });
        let others: Vec<&str> = others.map(|lease| lease.entry.key.as_str()).collect();
        if !others.is_empty() && self.log.is_due("other leases") {
            tracing::warn!(
                "of several leases for current IP ({}), this node takes {} and leaves alone {}: \
                 delete those that nobody uses",
                self.attrs.public_ip(),
                own.entry.key,
                shorten(&others),
            );
        }
    }

    async fn reuse(&mut self, own: &Stored<Lease>) -> Result<Attempt, RegistryError> {
        let written = timeout(WRITE_TIMEOUT, self.registry.renew(own, self.attrs)).await;
        let lease = match written {
            Ok(Ok(Write::Done(lease))) => {
                if let Some(host) = self.other_host(own)
                    && self.is_held_by(&host, &lease).await
                {
                    return Ok(self.leave(own, host));
                }
                lease
            }
            Ok(Ok(Write::Refused(_))) => return Ok(Attempt::TooLate(own.subnet)),
            Ok(Err(error)) => self.take_unwritten(own, &error.to_string()).await,
            Err(_) => {
                let reason = format!("renew lease: no answer within {WRITE_TIMEOUT:?}");
                self.take_unwritten(own, &reason).await
            }
        };
        tracing::info!(
            "Found lease ({}) for current IP ({}), reusing",
            lease.subnets(),
            self.attrs.public_ip(),
        );
        Ok(Attempt::Acquired(lease))
    }

    fn leave(&mut self, own: &Stored<Lease>, host: HostId) -> Attempt {
        tracing::error!(
            "lease {} of our public IP ({}) is that of host {host}, which is alive: this node takes \
             another subnet; give one of the two another --public-ip",
            own.subnet,
            self.attrs.public_ip(),
        );
        self.rivals.push(own.entry.key.clone());
        self.rival = Some(host);
        Attempt::TooLate(own.subnet)
    }

    /// A lease that exists is ours, whether or not the registry takes writes now. The result is as
    /// that of an earlier life: the one who keeps it reads it first, as a write whose answer was lost
    /// may have been made, and then goes on trying to renew it.
    async fn take_unwritten(&self, own: &Stored<Lease>, reason: &str) -> Stored<Lease> {
        let left = timeout(WRITE_TIMEOUT, self.registry.time_left(own)).await.ok().flatten();
        let shown = left.map_or_else(|| "an unknown time".to_owned(), time_text::duration);
        tracing::warn!(
            "{reason}; starting with lease {} as it stands, for another {shown}, and trying again",
            own.subnet
        );
        // Nobody knows: it is not more than this.
        let expires = Instant::now() + left.unwrap_or(LEASE_TTL);
        let is_reservation = own.is_reservation();
        Stored {
            value: Lease {
                subnet: own.subnet,
                ipv6_subnet: own.ipv6_subnet,
                attrs: self.attrs.clone(),
                expires: (!is_reservation).then_some(expires),
            },
            entry: Entry {
                key: own.entry.key.clone(),
                revision: Revision::UNKNOWN,
                ttl_lease: (!is_reservation).then_some(TtlLease::UNKNOWN),
            },
        }
    }

    /// Deletes a lease of ours that is of no use; the next attempt sees what is free then.
    async fn give_up(&self, own: &Stored<Lease>) -> Result<Attempt, RegistryError> {
        if self.registry.delete(own).await? {
            tracing::info!(
                "Found lease ({}) for current IP ({}) but not compatible with current config, \
                 deleted",
                own.subnet,
                self.attrs.public_ip(),
            );
        }
        Ok(Attempt::TooLate(own.subnet))
    }

    async fn create(&mut self, snapshot: &Snapshot) -> Result<Attempt, RegistryError> {
        let subnets = match self.choose(snapshot) {
            Ok(subnets) => subnets,
            Err(error) => return Ok(Attempt::OutOfSubnets(error)),
        };
        let Write::Done(lease) = self.registry.create(subnets, self.attrs).await? else {
            return Ok(Attempt::TooLate(subnets.v4));
        };
        tracing::info!(
            "Allocated lease ({}) to current node ({})",
            lease.subnets(),
            self.attrs.public_ip(),
        );
        Ok(Attempt::Acquired(lease))
    }

    /// Of each family the previous subnet while it is free, then any.
    fn choose(&mut self, snapshot: &Snapshot) -> Result<Subnets, AcquireError> {
        let v4 = match self.previous_v4(snapshot) {
            Some(previous) => previous,
            None => {
                let range = &self.config.v4;
                let (min, max) = (range.subnet_min, range.subnet_max);
                tracing::info!("Picking subnet in range {min} ... {max}");
                pick(range, snapshot, |taken| Some(taken.v4))?
            }
        };
        let v6 = self.config.leased_v6().map(|range| {
            let is_free = |v6: &Ipv6Network| {
                !snapshot.taken().filter_map(|taken| taken.v6).any(|other| other.overlaps(*v6))
            };
            let previous = self.previous.and_then(|previous| previous.v6);
            if let Some(v6) = previous.filter(|v6| range.accepts(*v6) && is_free(v6)) {
                return Ok(v6);
            }
            let (min, max) = (range.subnet_min, range.subnet_max);
            tracing::info!("Picking ipv6 subnet in range {min} ... {max}");
            pick(range, snapshot, |taken| taken.v6)
        });
        Ok(Subnets { v4, v6: v6.transpose()? })
    }

    /// The previous IPv4 subnet; says why if it is not to be had.
    fn previous_v4(&self, snapshot: &Snapshot) -> Option<Ipv4Network> {
        let previous = self.previous?.v4;
        if !self.config.v4.accepts(previous) {
            tracing::warn!(
                "Found previously leased subnet ({previous}) that is not compatible with current \
                 config, ignoring"
            );
        } else if let Some(taken_by) = taken_by(snapshot, previous) {
            tracing::info!(
                "Found previously leased subnet ({previous}) taken by {taken_by}, ignoring"
            );
        } else {
            tracing::info!("Found previously leased subnet ({previous}), reusing");
            return Some(previous);
        }
        None
    }
}

/// Any free subnet of one family; `of` takes its part of what an entry names.
fn pick<P: Prefix>(
    range: &SubnetRange<P>,
    snapshot: &Snapshot,
    of: impl Fn(Subnets) -> Option<P>,
) -> Result<P, AcquireError> {
    allocate::pick(range, snapshot.taken().filter_map(of), &mut rng()).ok_or_else(|| {
        AcquireError::OutOfSubnets {
            len: range.subnet_len,
            min: range.subnet_min.into(),
            max: range.subnet_max.into(),
            taken: snapshot.entries.len(),
        }
    })
}

#[cfg(test)]
mod tests;
