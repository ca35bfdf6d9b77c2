//! [`KvLease`]: our lease in a registry, kept and saved, and the leases of all others.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::config_follow::follow_config;
use super::config_wait::POLL_INTERVAL;
use super::conflicts::ConflictTracker;
use super::list_watch::{CacheUpdate, InitialLeases, follow_leases};
use super::manager::KvSettings;
use super::registry::{Registry, Revision, Stored, TtlLease};
use super::renew::{AnnounceCauses, keep_lease_saying};
use super::state_file::Recorder;
use crate::control::config::network::NetworkConfig;
use crate::control::subnet::contact::Contact;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::subnet::{HeldLease, LeaseLost, LeaseStatus, LeaseUpdate};

/// Pause after an expiry could not be given back. It strikes by itself within a day.
const RELEASE_INTERVAL: Duration = Duration::from_secs(60);

/// Our lease.
#[derive(Debug)]
pub(crate) struct KvLease<'a, R> {
    pub(super) registry: &'a R,
    pub(super) settings: KvSettings,
    pub(super) network: NetworkConfig,
    pub(super) config_text: String,
    pub(super) own: Stored<Lease>,
    /// What is known of all leases, until they are followed.
    pub(super) known: RefCell<Option<InitialLeases>>,
    pub(super) claim: ConflictTracker,
    /// What our entry was bound to in an earlier run, if it no longer is.
    pub(super) former: Option<TtlLease>,
    pub(super) progress: RefCell<Progress>,
}

/// How the lease and the registry are, and how often they changed.
#[derive(Debug)]
pub(super) struct Progress {
    contact: Contact,
    expires: Option<Instant>,
    revision: Revision,
    renewals: u64,
    num_malformed: usize,
    num_peers: usize,
    rival: Option<String>,
}

impl Progress {
    pub(super) fn new(own: &Stored<Lease>, is_reachable: bool, rival: Option<String>) -> Self {
        Self {
            contact: Contact::new(is_reachable),
            expires: own.expires,
            revision: own.entry.revision,
            renewals: 0,
            num_malformed: 0,
            num_peers: 0,
            rival,
        }
    }

    /// Takes note of a new state of our lease.
    fn hold(&mut self, lease: &Stored<Lease>) {
        // An expiry that is another without a write is only better known.
        let is_written = lease.entry.revision != self.revision;
        let is_later = lease.expires.is_some() && lease.expires != self.expires;
        self.renewals += u64::from(is_written && is_later);
        (self.expires, self.revision) = (lease.expires, lease.entry.revision);
    }
}

/// The event as backends get it.
fn plain(event: LeaseEvent<Stored<Lease>>) -> LeaseEvent {
    match event {
        LeaseEvent::Added(lease) => LeaseEvent::Added(lease.value),
        LeaseEvent::Removed(subnet) => LeaseEvent::Removed(subnet),
    }
}

impl<R: Registry> HeldLease for KvLease<'_, R> {
    fn lease(&self) -> &Lease {
        &self.own
    }

    async fn keep(
        &self,
        attrs: Option<watch::Receiver<LeaseAttrs>>,
        updates: mpsc::UnboundedSender<LeaseUpdate>,
    ) -> LeaseLost {
        let known = self.known.take().unwrap_or(InitialLeases::Cached(Vec::new()));
        let is_remembered = matches!(known, InitialLeases::Cached(_));
        tokio::select! {
            lost = self.keep_and_follow(known, attrs, updates) => lost,
            never = self.compare_store(), if is_remembered => match never {},
            never = self.release_former() => match never {},
        }
    }

    fn is_reachable(&self) -> bool {
        self.progress.borrow().contact.is_reachable
    }

    fn status(&self) -> LeaseStatus {
        let progress = self.progress.borrow();
        let mut warnings = progress.contact.warnings.clone();
        warnings.extend(self.claim.write_failure().map(|failure| ("lease", failure)));
        LeaseStatus {
            public_ip: self.claim.public_ip(),
            expires: progress.expires,
            is_gone: self.claim.is_gone(),
            renewals: progress.renewals,
            reconnects: progress.contact.reconnects,
            num_malformed: progress.num_malformed,
            conflicts: self.claim.conflicts(),
            rival: progress.rival.clone(),
            warnings,
        }
    }

    fn source(&self) -> String {
        let name = self.registry.config_name();
        match self.settings.state.endpoints() {
            [] => name,
            endpoints => format!("{name} at {}", endpoints.join(", ")),
        }
    }

    async fn ping(&self) -> Option<Duration> {
        let asked = Instant::now();
        self.registry.identity().await.ok().map(|_| asked.elapsed())
    }
}

impl<R: Registry> KvLease<'_, R> {
    /// Everything here is one task: the channels are filled and emptied turn by turn, so they are
    /// unbounded and yet never long.
    async fn keep_and_follow(
        &self,
        known: InitialLeases,
        attrs: Option<watch::Receiver<LeaseAttrs>>,
        updates: mpsc::UnboundedSender<LeaseUpdate>,
    ) -> LeaseLost {
        let Self { registry, settings, own, claim, .. } = self;
        let mut record = self.recorder(&known, &updates);
        let (reachable, mut touch) = watch::channel(matches!(known, InitialLeases::Listed(_)));
        let (sink, mut changes) = mpsc::unbounded_channel();
        let sink = |update| drop(sink.send(update));
        let mut follow = pin!(follow_leases(*registry, claim, known, reachable, sink));
        let (announce_causes, causes) = watch::channel(AnnounceCauses::default());
        let attrs = attrs.unwrap_or_else(|| watch::channel(own.attrs.clone()).1);
        let (hold, mut held) = mpsc::unbounded_channel();
        let hold = |lease: &Stored<Lease>| drop(hold.send(lease.clone()));
        let policy = settings.policy;
        let keep = keep_lease_saying(*registry, own, policy, claim, causes, attrs, hold);
        let mut keep = pin!(keep);
        let mut config = pin!(follow_config(
            *registry,
            settings.backend,
            &self.network,
            touch.clone(),
            || self.progress.borrow().num_peers,
            |warning| self.progress.borrow_mut().contact.warn("config", warning),
        ));
        loop {
            self.progress.borrow_mut().contact.reachable(*touch.borrow_and_update());
            tokio::select! {
                Some(update) = changes.recv() => {
                    announce_causes.send_modify(|causes| causes.observe(&update));
                    record.apply(&update.events);
                    self.take(update, &updates);
                }
                Some(lease) = held.recv() => {
                    self.progress.borrow_mut().hold(&lease);
                    record.hold(lease);
                }
                step = record.next() => record.take(step),
                Ok(()) = touch.changed() => {}
                lost = &mut keep => {
                    record.clear().await;
                    return lost;
                }
                never = &mut follow => match never {},
                never = &mut config => match never {},
            }
        }
    }

    /// Saves the state from now on. Leases that were saved earlier are the first update.
    fn recorder(
        &self,
        known: &InitialLeases,
        updates: &mpsc::UnboundedSender<LeaseUpdate>,
    ) -> Recorder<'_> {
        let peers = match known {
            InitialLeases::Cached(peers) => peers.as_slice(),
            InitialLeases::Listed(_) => &[],
        };
        if !peers.is_empty() {
            let events = peers.iter().map(|peer| LeaseEvent::Added(peer.value.clone())).collect();
            drop(updates.send(LeaseUpdate { events, is_complete: false }));
        }
        Recorder::new(&self.settings.state, &self.config_text, self.own.clone(), peers)
    }

    fn take(&self, update: CacheUpdate, updates: &mpsc::UnboundedSender<LeaseUpdate>) {
        let CacheUpdate { events, num_malformed, num_known, stale, .. } = update;
        let mut progress = self.progress.borrow_mut();
        (progress.num_peers, progress.num_malformed) = (num_known, num_malformed);
        progress.contact.warn("peers", stale);
        let events = events.into_iter().map(plain).collect();
        // The first news is all there is in the registry.
        drop(updates.send(LeaseUpdate { events, is_complete: true }));
    }

    /// Gives back what our entry was bound to in an earlier run. Somebody may have overwritten or
    /// deleted the entry since.
    async fn release_former(&self) -> Infallible {
        if let Some(former) = self.former {
            while self.registry.release(former).await.is_err() {
                sleep(RELEASE_INTERVAL).await;
            }
        }
        std::future::pending().await
    }

    /// Tells the operator if another registry answers than the one whose state we started with.
    async fn compare_store(&self) -> Infallible {
        let store = loop {
            match self.registry.identity().await {
                Ok(store) => break store,
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        };
        if let Some(before) = self.settings.state.meet(&store) {
            warn!("{store} answers, but this node started with the state of {before}");
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subnet::kv::registry::Entry;

    fn lease(revision: i64, expires: Option<Instant>) -> Stored<Lease> {
        let (key, subnet) = ("10.1.1.0-24".to_owned(), "10.1.1.0/24".parse().unwrap());
        let entry = Entry { key, revision: Revision(revision), ttl_lease: None };
        let attrs = LeaseAttrs::udp([192, 0, 2, 1].into());
        Stored { value: Lease { subnet, ipv6_subnet: None, attrs, expires }, entry }
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_are_counted() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let mut progress = Progress::new(&lease(1, Some(now + hour)), true, None);
        progress.hold(&lease(1, Some(now + 2 * hour)));
        assert_eq!(progress.renewals, 0, "it was only kept alive");
        progress.hold(&lease(2, Some(now + 3 * hour)));
        progress.hold(&lease(3, None));
        assert_eq!((progress.renewals, progress.expires), (1, None));
    }
}
