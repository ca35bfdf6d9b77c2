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
    watch: Option<R::Watch>,
    /// Whether the registry answers.
    in_touch: watch::Sender<bool>,
    backoff: Backoff,
    /// After a failure: not to be tried again earlier.
    retry_at: Option<Instant>,
    log: LogLimit,
}

impl<'r, R: Registry> Feed<'r, R> {
    /// Begins with a snapshot.
    pub(crate) fn new(registry: &'r R, scope: Scope) -> Self {
        Self {
            registry,
            scope,
            position: None,
            watch: None,
            in_touch: watch::Sender::new(true),
            backoff: Backoff::of_registry(),
            retry_at: None,
            log: LogLimit::default(),
        }
    }

    /// Begins with the changes after `position`.
    pub(crate) fn after(registry: &'r R, scope: Scope, position: Revision) -> Self {
        Self { position: Some(position), ..Self::new(registry, scope) }
    }

    /// The same feed, which tells `in_touch` each time the registry falls silent or answers again.
    pub(crate) fn telling(self, in_touch: watch::Sender<bool>) -> Self {
        Self { in_touch, ..self }
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
            let snapshot = self.registry.list(&self.scope).await?;
            self.position = Some(snapshot.revision);
            tell(&self.in_touch, true);
            return Ok(Some(Update::Snapshot(snapshot)));
        };
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(self.registry.watch(&self.scope, position).await?),
        };
        tell(&self.in_touch, true);
        let batch = watch.next().await?;
        self.position = Some(batch.revision);
        self.backoff.reset();
        Ok((!batch.changes.is_empty()).then_some(Update::Changes(batch.changes)))
    }

    /// A list that succeeds does not reset the back-off, only a watch that delivers does. So a
    /// registry that forgets its history faster than we read it is not asked without a pause.
    fn recover(&mut self, error: &RegistryError) {
        self.watch = None;
        if matches!(error, RegistryError::HistoryGone { .. }) {
            self.position = None;
        } else {
            tell(&self.in_touch, false);
        }
        if self.log.is_due(error.kind()) {
            tracing::warn!("{error}; trying again");
        }
        self.retry_at = Some(Instant::now() + self.backoff.delay());
    }
}

/// Wakes the listeners only by what is news to them.
fn tell(in_touch: &watch::Sender<bool>, now: bool) {
    in_touch.send_if_modified(|before| std::mem::replace(before, now) != now);
}
