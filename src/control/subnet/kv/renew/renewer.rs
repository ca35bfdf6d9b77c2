//! [`LeaseRenewer`]: what each answer of the registry means for our lease.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::KeepPolicy;
use super::announcer::Announcer;
use super::rewrites::{Over, Rewrites};
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::subnet::LeaseLost;
use crate::control::subnet::kv::conflicts::ConflictTracker;
use crate::control::subnet::kv::list_watch::Update;
use crate::control::subnet::kv::registry::{
    Change, Entry, Malformed, Read, Registry, RegistryError, Revision, Scope, Stored, TtlLease,
    Write,
};
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::time_text;

/// Least time between two renewals, however short the lease and wide the margin.
const MIN_PAUSE: Duration = Duration::from_secs(10);

/// By how much the time that a registry says is left may differ from what we know.
const MAX_INEXACT: Duration = Duration::from_secs(5);

/// How long a node that lost its lease takes to tidy up, at most.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Our lease, and what is to be done about it next.
pub(super) struct LeaseRenewer<'r, R, S> {
    registry: &'r R,
    pub(super) lease: Stored<Lease>,
    policy: KeepPolicy,
    claim: &'r ConflictTracker,
    sink: S,
    /// `None` for a reservation.
    pub(super) renew_at: Option<Instant>,
    /// Whether the entry may be newer than we know by a write of our own, whose answer was lost.
    is_in_doubt: bool,
    /// Whether the registry lost our entry, and we did not write it again yet.
    is_lost: bool,
    /// Whether there is no entry of ours.
    is_gone: bool,
    /// Whether somebody else wrote our entry in our name since we last did.
    is_shared: bool,
    rewrites: Rewrites,
    pub(super) announcer: Announcer,
    /// What our entry was bound to once, to be given back.
    stale: Vec<TtlLease>,
    /// What our entry may still say that our public IP is.
    former_ip: Option<Ipv4Addr>,
    backoff: Backoff,
    log: LogLimit,
}

impl<'r, R: Registry, S: FnMut(&Stored<Lease>)> LeaseRenewer<'r, R, S> {
    pub(super) fn new(
        registry: &'r R,
        lease: Stored<Lease>,
        policy: KeepPolicy,
        claim: &'r ConflictTracker,
        sink: S,
    ) -> Self {
        let is_known = lease.entry.revision != Revision::UNKNOWN;
        let mut renewer = Self {
            registry,
            is_in_doubt: !is_known,
            is_lost: false,
            is_gone: false,
            is_shared: false,
            rewrites: Rewrites::new(),
            announcer: Announcer::new(),
            stale: Vec::new(),
            former_ip: None,
            lease,
            policy,
            claim,
            sink,
            renew_at: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            log: LogLimit::default(),
        };
        if is_known {
            renewer.schedule();
        }
        renewer
    }

    fn schedule(&mut self) {
        if self.lease.is_reservation() {
            self.renew_at = None;
            return;
        }
        let expires = self.lease.expires.unwrap_or_else(Instant::now);
        let remaining = expires.saturating_duration_since(Instant::now());
        let pause = remaining.saturating_sub(self.policy.margin).max(MIN_PAUSE);
        tracing::info!("Waiting for {} to renew lease", time_text::duration(pause));
        self.renew_at = Some(Instant::now() + pause);
    }

    /// The machine slept: our lease went on to expire, while the clock of [`Instant`] stood still.
    pub(super) fn count_sleep(&mut self, slept: Duration) {
        tracing::info!("this machine slept for {}", time_text::duration(slept));
        let earlier = |at: Instant| at.checked_sub(slept).unwrap_or_else(Instant::now);
        self.lease.expires = self.lease.expires.map(earlier);
        self.renew_at = self.renew_at.map(earlier);
    }

    /// Has our entry say something else of us. As long as it does not, the old public IP in it is
    /// ours as well.
    pub(super) async fn say(&mut self, attrs: LeaseAttrs) -> Result<(), LeaseLost> {
        let (subnet, old, new) =
            (self.lease.subnet, self.lease.attrs.public_ip(), attrs.public_ip());
        if old != new {
            tracing::info!("lease {subnet} moves from public IP {old} to {new}");
            self.former_ip.get_or_insert(old);
            self.claim.follow(new);
            self.registry.reconnect().await;
        }
        self.lease.attrs = attrs;
        (self.sink)(&self.lease);
        if self.lease.entry.revision == Revision::UNKNOWN {
            // The watch tells what became of our entry, and that comes first.
            return Ok(());
        }
        self.renew().await
    }

    pub(super) async fn renew(&mut self) -> Result<(), LeaseLost> {
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.registry.renew(&self.lease, &self.lease.attrs).await {
            Ok(Write::Done(lease)) => {
                self.hold(lease);
                Ok(())
            }
            Ok(Write::Refused(found)) => self.judge(found).await,
            Err(error) => {
                self.ask_time_left().await;
                self.complain(&error);
                Ok(())
            }
        }
    }

    /// When to write our entry as it is; never before its state is known.
    pub(super) fn announce_at(&self) -> Option<Instant> {
        (self.lease.entry.revision != Revision::UNKNOWN).then(|| self.announcer.due())
    }

    /// Writes our entry as it is.
    pub(super) async fn announce(&mut self) -> Result<(), LeaseLost> {
        match self.registry.announce(&self.lease).await {
            Ok(Write::Done(lease)) => {
                self.lease.entry = lease.entry;
                tracing::debug!("lease {} is announced again", self.lease.subnet);
                self.claim.is_written();
                self.announcer.written();
                Ok(())
            }
            Ok(Write::Refused(found)) => {
                self.announcer.failed();
                self.judge(found).await
            }
            Err(error) => {
                self.announcer.failed();
                self.ask_time_left().await;
                self.complain(&error);
                Ok(())
            }
        }
    }

    /// What the watch on our entry tells: our own writes, and those of others.
    pub(super) async fn observe(&mut self, update: Update) -> Result<(), LeaseLost> {
        let changes = match update {
            Update::Snapshot(mut snapshot) | Update::Relisted(mut snapshot, _) => {
                let found = snapshot.entries.pop();
                return self.compare(found).await;
            }
            Update::Reset(mut snapshot) => {
                let found = snapshot.entries.pop();
                // Nobody deleted it, so it is no loss that the operator may want us to end for.
                self.is_lost = found.is_none();
                return self.compare(found).await;
            }
            Update::Changes(changes) => changes,
        };
        for change in changes {
            let known = self.lease.entry.revision;
            match change {
                Change::Put(Ok(lease)) if lease.entry.revision <= known => {}
                Change::Put(Err(Malformed { revision, .. })) if revision <= known => {}
                Change::Delete { revision, .. } | Change::Cleared { revision }
                    if revision <= known => {}
                Change::Put(entry) => self.resolve(entry).await?,
                Change::Delete { .. } | Change::Cleared { .. } => self.judge(None).await?,
                Change::Foreign => {}
            }
        }
        Ok(())
    }

    /// Our entry as it is, after a time without a watch on it.
    async fn compare(&mut self, found: Option<Read>) -> Result<(), LeaseLost> {
        if let Some(Ok(Stored { entry, .. })) = &found {
            if *entry == self.lease.entry {
                return Ok(());
            }
            // Older than we know: the registry was set back, and nobody wrote in our name.
            self.is_in_doubt |= entry.revision < self.lease.entry.revision;
        }
        self.judge(found).await
    }

    /// Decides what becomes of us when our entry is `found` like this.
    async fn judge(&mut self, found: Option<Read>) -> Result<(), LeaseLost> {
        if let Some(entry) = found {
            return self.resolve(entry).await;
        }
        self.is_gone = true;
        let Lease { subnet, ref attrs, expires, .. } = self.lease.value;
        let is_expired = expires.is_some_and(|expires| expires <= Instant::now());
        let fate = match (self.is_lost, is_expired) {
            (true, _) => "was lost by the registry",
            (false, true) => "had expired",
            (false, false) if self.policy.on_loss == OnLeaseLoss::Exit => {
                return Err(LeaseLost::Deleted { subnet, owner: attrs.public_ip() });
            }
            (false, false) => "was deleted by somebody",
        };
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.create_anew().await {
            Ok(Write::Done(lease)) => {
                tracing::warn!("lease {subnet} {fate} and was created again");
                self.hold(lease);
                self.announcer.join();
            }
            Ok(Write::Refused(Some(entry))) => self.resolve(entry).await?,
            Ok(Write::Refused(None)) => {}
            Err(error) => self.complain(&error),
        }
        Ok(())
    }

    /// Creates our entry, unless another node has some of its addresses by now.
    async fn create_anew(&self) -> Result<Write, RegistryError> {
        let Lease { subnet, ref attrs, .. } = self.lease.value;
        let snapshot = self.registry.list(&Scope::All).await?;
        let is_anothers = |lease: &&Stored<Lease>| {
            lease.attrs.owner().is_some_and(|owner| owner != attrs.public_ip())
        };
        let mut others = snapshot.leases().filter(is_anothers);
        match others.find(|lease| lease.subnet.overlaps(subnet)) {
            Some(other) => Ok(Write::Refused(Some(Ok(other.clone())))),
            None => self.registry.create(subnet.into(), attrs).await,
        }
    }

    /// The entry belongs to the node whose public IP it carries; to us, if it names none. Ours may
    /// have been written by somebody else, too: the operator makes it a reservation that way.
    async fn resolve(&mut self, entry: Read) -> Result<(), LeaseLost> {
        let (subnet, owner) = (self.lease.subnet, self.lease.attrs.public_ip());
        match entry {
            Ok(lease) if lease.attrs.public_ip() == owner => self.adopt(lease),
            Ok(lease) if Some(lease.attrs.public_ip()) == self.former_ip => {
                // Our own write of before, most likely.
                self.is_in_doubt = true;
                self.adopt(lease);
                self.renew_at = Some(Instant::now() + self.backoff.delay());
            }
            Ok(lease) => match lease.attrs.owner() {
                Some(new_owner) => return Err(LeaseLost::TakenOver { subnet, owner, new_owner }),
                None => {
                    let found = format!("PublicIP is {} or missing", lease.attrs);
                    self.take_back(lease.entry.revision, &found).await;
                }
            },
            Err(Malformed { revision, reason, found, .. }) => {
                self.take_back(revision, &format!("{reason}; found \"{found}\"")).await;
            }
        }
        Ok(())
    }

    /// Writes our entry again, in place of one of the revision `seen` that names no owner.
    async fn take_back(&mut self, seen: Revision, found: &str) {
        let at = self.rewrites.next(Over::Ownerless);
        if at > Instant::now() {
            self.renew_at = Some(at);
            return;
        }
        let subnet = self.lease.subnet;
        tracing::warn!(
            "the entry of our lease {subnet} was overwritten and names no owner: {found}; \
             writing it again"
        );
        let entry = Entry { revision: seen, ..self.lease.entry.clone() };
        let overwritten = Stored { entry, ..self.lease.clone() };
        self.renew_at = Some(Instant::now() + self.backoff.delay());
        match self.registry.renew(&overwritten, &self.lease.attrs).await {
            Ok(Write::Done(lease)) => self.hold(lease),
            // It changed once more. The watch tells how, or the renewal finds out.
            Ok(Write::Refused(_)) => {}
            Err(error) => self.complain(&error),
        }
    }

    fn adopt(&mut self, lease: Stored<Lease>) {
        self.is_gone = false;
        if !lease.is_reservation() && !std::mem::take(&mut self.is_in_doubt) {
            self.is_shared = true;
            self.claim.report_shared(&lease);
        }
        let is_different = lease.attrs != self.lease.attrs;
        let had = self.rebind(lease.entry);
        if had.revision == Revision::UNKNOWN {
            tracing::info!("registry is back: lease {} is still ours", self.lease.subnet);
            self.announcer.join();
        }
        if self.lease.is_reservation() {
            tracing::info!("lease {} is a reservation", self.lease.subnet);
            self.lease.expires = None;
            self.renew_at = None;
            self.claim.is_written();
        } else if had.ttl_lease != self.lease.entry.ttl_lease {
            // Bound to an expiry that we do not know. Renewing tells.
            self.renew_at = Some(Instant::now() + MIN_PAUSE);
        }
        if is_different {
            self.correct();
        }
        (self.sink)(&self.lease);
    }

    /// Has the next renewal, which writes what is true of us, come soon.
    fn correct(&mut self) {
        if self.log.is_due("different") {
            tracing::warn!(
                "the entry of our lease {} says something else of us: correcting it",
                self.lease.subnet
            );
        }
        let at = self.rewrites.next(Over::Different);
        self.renew_at = Some(self.renew_at.map_or(at, |renew_at| renew_at.min(at)));
    }

    fn hold(&mut self, lease: Stored<Lease>) {
        self.rebind(lease.entry.clone());
        self.lease = lease;
        self.is_in_doubt = false;
        self.is_lost = false;
        self.is_gone = false;
        self.former_ip = None;
        self.backoff.reset();
        self.claim.is_written();
        self.announcer.written();
        if !std::mem::take(&mut self.is_shared) {
            self.claim.resolve(&self.lease.entry.key);
        }
        if let Some(expires) = self.lease.expires {
            let at = SystemTime::now() + expires.saturating_duration_since(Instant::now());
            tracing::info!("Lease renewed, new expiration: {}", time_text::utc(at));
        }
        self.schedule();
        (self.sink)(&self.lease);
    }

    /// Takes note of our entry's new state and returns the one before.
    fn rebind(&mut self, entry: Entry) -> Entry {
        let had = std::mem::replace(&mut self.lease.entry, entry);
        let is_known = |ttl_lease: &TtlLease| *ttl_lease != TtlLease::UNKNOWN;
        if had.ttl_lease != self.lease.entry.ttl_lease {
            self.stale.extend(had.ttl_lease.filter(is_known));
        }
        had
    }

    /// Gives back the expiries that our entry is no longer bound to.
    pub(super) async fn release_stale(&mut self) {
        while let Some(&ttl_lease) = self.stale.last() {
            if self.lease.entry.ttl_lease != Some(ttl_lease)
                && let Err(error) = self.registry.release(ttl_lease).await
            {
                tracing::debug!("{error}");
                return; // another time
            }
            self.stale.pop();
        }
    }

    /// Gives back every expiry, as our lease is lost. Another node that has our entry may be bound to it, and
    /// keeps it then.
    pub(super) async fn release_all(&mut self) {
        self.rebind(Entry { ttl_lease: None, ..self.lease.entry.clone() });
        drop(tokio::time::timeout(RELEASE_TIMEOUT, self.release_stale()).await);
    }

    /// Says that a write failed, and for how much longer our lease holds without it.
    fn complain(&mut self, error: &RegistryError) {
        self.is_in_doubt = true;
        let now = Instant::now();
        let stands = match self.lease.expires {
            _ if self.is_gone => {
                "the lease is gone, and another node may be given its subnet".to_owned()
            }
            Some(expires) if expires > now => {
                let left = time_text::duration(expires - now);
                format!("the lease holds for another {left}")
            }
            Some(expires) => {
                let ago = time_text::duration(now - expires);
                format!(
                    "the lease expired {ago} ago, and another node may be given its subnet; \
                     forwarding goes on until that is known"
                )
            }
            None => "the reservation does not expire".to_owned(),
        };
        let until = match self.lease.expires {
            _ if self.is_gone => "is gone from the registry".to_owned(),
            Some(expires) if expires > now => {
                format!("stands until {}", time_text::utc(SystemTime::now() + (expires - now)))
            }
            Some(_) => "has expired".to_owned(),
            None => "does not expire".to_owned(),
        };
        let subnet = self.lease.subnet;
        let failure = format!("our lease {subnet} cannot be written and {until}: {error}");
        self.claim.cannot_be_written(failure, self.is_gone);
        if self.log.is_due(error.kind()) {
            tracing::warn!("{error}; trying again, {stands}");
        }
    }

    /// A registry that refuses writes may still have put the expiry of our entry off: etcd does, of
    /// an etcd lease that is kept alive.
    async fn ask_time_left(&mut self) {
        if self.is_gone {
            return;
        }
        let asked = Instant::now();
        let Some(left) = self.registry.time_left(&self.lease).await else { return };
        let (before, expires) = (self.lease.expires, asked + left);
        let is_as_known = before.is_none_or(|before| {
            expires.max(before).saturating_duration_since(expires.min(before)) < MAX_INEXACT
        });
        if !is_as_known {
            self.lease.expires = Some(expires);
            (self.sink)(&self.lease);
        }
    }
}
