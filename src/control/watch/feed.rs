//! [`Feed`]: a registry's snapshot and changes, without end.

use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::backoff::Backoff;
use crate::control::log_limit::LogLimit;
use crate::control::registry::{
    Change, LeaseWatch, Registry, RegistryError, Revision, Scope, Snapshot,
};

/// What is new in the registry.
#[derive(Debug, PartialEq)]
pub(crate) enum Update {
    /// Everything there is: what is known but not in here is gone.
    Snapshot(Snapshot),
    /// Everything there is in a registry that was set back: it lost its data, or was restored from
    /// a backup. What is known but not in here was not deleted by anybody.
    Reset(Snapshot),
    /// These entries changed, and no others.
    Changes(Vec<Change>),
}

/// Follows the entries of a scope through every failure of the registry.
pub(crate) struct Feed<'r, R: Registry> {
    registry: &'r R,
    scope: Scope,
    /// Everything up to here has been delivered; `None` before the first list, and after the
    /// history has been lost.
    position: Option<Revision>,
    /// The first list, if somebody has made it already.
    listed: Option<Snapshot>,
    /// Where we were when the history was lost.
    lost_at: Revision,
    watch: Option<R::Watch>,
    /// Whether the registry answers.
    in_touch: watch::Sender<bool>,
    backoff: Backoff,
    /// After a failure: not to be tried again earlier.
    retry_at: Option<Instant>,
    log: LogLimit,
    /// Whether another feed of the same registry does the talking.
    is_quiet: bool,
}

impl<'r, R: Registry> Feed<'r, R> {
    /// Begins with a snapshot.
    pub(crate) fn new(registry: &'r R, scope: Scope) -> Self {
        Self {
            registry,
            scope,
            position: None,
            listed: None,
            lost_at: Revision::default(),
            watch: None,
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
        let Some(position) = self.position else {
            let snapshot = match self.listed.take() {
                Some(listed) => listed,
                None => self.registry.list(&self.scope).await?,
            };
            self.position = Some(snapshot.revision);
            self.tell(true);
            let is_set_back = snapshot.revision < std::mem::take(&mut self.lost_at);
            let update = if is_set_back { Update::Reset } else { Update::Snapshot };
            return Ok(Some(update(snapshot)));
        };
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => self.registry.watch(&self.scope, position).await?,
        };
        self.tell(true);
        let batch = self.watch.insert(watch).next().await?;
        self.position = Some(batch.revision);
        self.backoff.reset();
        Ok((!batch.changes.is_empty()).then_some(Update::Changes(batch.changes)))
    }

    /// A list that succeeds does not reset the back-off, only a watch that delivers does. So a
    /// registry that forgets its history faster than we read it is not asked without a pause.
    fn recover(&mut self, error: &RegistryError) {
        self.watch = None;
        if matches!(error, RegistryError::HistoryGone { .. }) {
            self.lost_at = self.position.take().unwrap_or(self.lost_at);
        } else {
            self.tell(false);
            // One entry is soon read anew. Its last change may lie so far back that a registry
            // which was set back meanwhile is past it again.
            if matches!(self.scope, Scope::Key(_)) {
                self.position = None;
            }
        }
        if !self.is_quiet && self.log.is_due(error.kind()) {
            tracing::warn!("{error}; trying again");
        }
        self.retry_at = Some(Instant::now() + self.backoff.delay());
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
