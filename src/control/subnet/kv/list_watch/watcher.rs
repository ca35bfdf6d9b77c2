//! [`ListWatch`]: a registry's snapshots and changes, without end.

use std::cmp::Ordering;
use std::time::Duration;

use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::subnet::kv::registry::{
    Change, LeaseWatch, Registry, RegistryError, Revision, Scope, Snapshot, StoreId,
};
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::rng::rng;

/// What is new in the registry.
#[derive(Debug, PartialEq)]
pub(crate) enum Update {
    /// Everything there is, for the first time.
    Snapshot(Snapshot),
    /// Everything there is, once more. Nobody reported what happened to that which is known but
    /// not in here.
    Relisted(Snapshot, Gap),
    /// Everything there is in a registry whose history is not the one that we followed: it lost
    /// its data, was restored from a backup, or is another one. What is known but not in here was
    /// not deleted by anybody.
    Reset(Snapshot),
    /// These entries changed, and no others.
    Changes(Vec<Change>),
}

/// Why everything was listed once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gap {
    /// It was time to. Nothing is known to have been missed.
    None,
    /// A watch was lost. A registry that is restored from a backup ends all watches and may be
    /// past our last revision when it answers again, so its numbers prove nothing.
    WatchLost,
    /// The registry did not answer for a time: no node could write its lease.
    Silence,
}

/// How long until everything is listed once more, at least and at most. It finds what a watch
/// missed without telling us.
const RESYNC: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(1200)];

/// Entries for which [`RESYNC`] is right; with more it is longer in proportion. There are as many
/// nodes as entries, so however many they are, etcd is asked for about one listing a second.
const RESYNC_LEN: f64 = 1000.0;

/// All nodes lose their watches at once when etcd restarts, and list everything again. What they
/// ask for grows with the square of their number, so each waits for up to this times the square:
/// nothing to speak of for a hundred nodes, a second and a half for a thousand. That is some
/// 100 MB/s of listings.
const LIST_SPREAD: Duration = Duration::from_nanos(1500);

/// Follows the entries of a scope through every failure of the registry.
pub(crate) struct ListWatch<'r, R: Registry> {
    registry: &'r R,
    scope: Scope,
    /// Everything up to here has been delivered; `None` before the first list.
    position: Option<Revision>,
    /// Whose revision that is, if we know.
    store: Option<StoreId>,
    /// The first list, if somebody has made it already.
    listed: Option<Snapshot>,
    /// Entries in the last list.
    num_listed: usize,
    /// When to list once more, at the latest.
    list_at: Instant,
    /// What happened since the last list.
    gap: Gap,
    /// Whether the history is known to be another since then.
    is_reset: bool,
    watch: Option<R::Watch>,
    /// Whether the last watch could not even be set up. A registry that only lists is not in touch.
    is_refused: bool,
    /// Whether the registry answers.
    in_touch: watch::Sender<bool>,
    backoff: Backoff,
    /// After a failure: not to be tried again earlier.
    retry_at: Option<Instant>,
    log: LogLimit,
    /// Whether another feed of the same registry does the talking.
    is_quiet: bool,
}

impl<'r, R: Registry> ListWatch<'r, R> {
    /// Begins with a snapshot.
    pub(crate) fn new(registry: &'r R, scope: Scope) -> Self {
        Self {
            registry,
            scope,
            position: None,
            store: None,
            listed: None,
            num_listed: 0,
            list_at: Instant::now() + resync_interval(0),
            gap: Gap::None,
            is_reset: false,
            watch: None,
            is_refused: false,
            in_touch: watch::Sender::new(true),
            backoff: Backoff::of_registry(),
            retry_at: None,
            log: LogLimit::default(),
            is_quiet: false,
        }
    }

    /// Begins with the changes after `position`.
    pub(crate) fn after(registry: &'r R, scope: Scope, position: Revision) -> Self {
        Self { position: Some(position), ..Self::new(registry, scope) }
    }

    /// Begins with a snapshot that has just been made.
    pub(crate) fn from(registry: &'r R, scope: Scope, listed: Snapshot) -> Self {
        Self { listed: Some(listed), ..Self::new(registry, scope) }
    }

    /// The same feed, which tells `in_touch` each time the registry falls silent or answers again.
    pub(crate) fn telling(self, in_touch: watch::Sender<bool>) -> Self {
        Self { in_touch, ..self }
    }

    /// The same feed, which leaves it to another one to complain of the registry.
    pub(crate) fn quiet(self) -> Self {
        Self { is_quiet: true, ..self }
    }

    /// Whether every change reaches us now, as it is made.
    pub(crate) const fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// The next snapshot, or changes, of which there is at least one.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Update {
        loop {
            if let Some(retry_at) = self.retry_at {
                tokio::time::sleep_until(retry_at).await;
                self.retry_at = None;
            }
            match self.step().await {
                Ok(Some(update)) => return update,
                Ok(None) => {}
                Err(error) => self.recover(&error),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Update>, RegistryError> {
        let Some(position) = self.position.filter(|_| Instant::now() < self.list_at) else {
            return self.list().await;
        };
        if self.watch.is_none() {
            self.is_refused = true;
            let watch = self.registry.watch(&self.scope, position).await?;
            self.is_refused = false;
            let store = self.store.get_or_insert_with(|| watch.store().clone());
            if store != watch.store() {
                return Err(RegistryError::SetBack { after: position });
            }
            self.watch = Some(watch);
        }
        self.tell(true);
        let Some(watch) = &mut self.watch else { return Ok(None) };
        let batch = tokio::select! {
            biased;
            batch = watch.next() => batch?,
            () = tokio::time::sleep_until(self.list_at) => return Ok(None),
        };
        let num = batch.changes.len();
        tracing::trace!("{num} changes of leases up to revision {}", batch.revision.0);
        self.position = Some(batch.revision);
        self.backoff.reset();
        Ok((!batch.changes.is_empty()).then_some(Update::Changes(batch.changes)))
    }

    /// Lists everything, for the first time or once more. The next watch goes on from there.
    async fn list(&mut self) -> Result<Option<Update>, RegistryError> {
        let snapshot = match self.listed.take() {
            Some(listed) => listed,
            None => match self.registry.list(&self.scope).await {
                Ok(snapshot) => snapshot,
                Err(error) if self.is_watching() => {
                    // The watch is open, and fails if the registry is gone.
                    tracing::debug!("{error}; the watch goes on");
                    self.list_at = Instant::now() + self.backoff.delay() + LogLimit::INTERVAL;
                    return Ok(None);
                }
                Err(error) => {
                    self.gap = Gap::Silence;
                    return Err(error);
                }
            },
        };
        let num = snapshot.entries.len();
        tracing::trace!("{num} entries listed at revision {}", snapshot.revision.0);
        let (before, now) = (self.position.replace(snapshot.revision), snapshot.revision);
        let other = self.store.replace(snapshot.store.clone());
        let is_other = other.as_ref().is_some_and(|other| *other != snapshot.store);
        if let Some(other) = other.filter(|_| is_other && !self.is_quiet) {
            tracing::warn!("another registry answers now: {}, not {other}", snapshot.store);
        }
        let is_behind = before.map(|before| now.cmp(&before)) == Some(Ordering::Less);
        let is_reset = std::mem::take(&mut self.is_reset) || is_other || is_behind;
        let gap = std::mem::replace(&mut self.gap, Gap::None);
        self.watch = None;
        if !self.is_refused {
            self.tell(true);
        }
        self.num_listed = snapshot.entries.len();
        self.list_at = Instant::now() + resync_interval(self.num_listed);
        Ok(Some(match before {
            _ if is_reset => Update::Reset(snapshot),
            Some(_) => Update::Relisted(snapshot, gap),
            None => Update::Snapshot(snapshot),
        }))
    }

    /// A list that succeeds does not reset the back-off, only a watch that delivers does. So a
    /// registry that forgets its history faster than we read it is not asked without a pause.
    fn recover(&mut self, error: &RegistryError) {
        self.watch = None;
        self.gap = self.gap.max(Gap::WatchLost);
        let now = Instant::now();
        match error {
            RegistryError::HistoryGone { .. } => self.list_at = now,
            RegistryError::SetBack { .. } => {
                self.is_reset = true;
                self.list_at = now;
            }
            RegistryError::Call { .. } | RegistryError::WatchEnded { .. } => {
                self.tell(false);
                self.list_at = self.list_at.min(now + list_spread(self.num_listed));
            }
        }
        if !self.is_quiet && self.log.is_due(error.kind()) {
            tracing::warn!("{error}; trying again");
        }
        self.retry_at = Some(now + self.backoff.delay());
    }

    /// Wakes the listeners only by what is news to them.
    fn tell(&mut self, now: bool) {
        let is_news =
            self.in_touch.send_if_modified(|before| std::mem::replace(before, now) != now);
        if is_news && now && !self.is_quiet && self.log.is_due("answers") {
            tracing::info!("registry answers again");
        }
    }
}

fn resync_interval(num_listed: usize) -> Duration {
    let [least, most] = RESYNC;
    rng().random_range(least..=most).mul_f64((num_listed as f64 / RESYNC_LEN).max(1.0))
}

fn list_spread(num_listed: usize) -> Duration {
    let square = (num_listed as f64).powi(2);
    LIST_SPREAD.mul_f64(square * rng().random_range(0.0..=1.0))
}
