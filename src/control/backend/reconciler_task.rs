//! [`ReconcilerTask`]: a backend's reconciler on a task of its own.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::BackendError;
use crate::control::conditions::Conditions;

/// A running reconciler, and the conditions that it reports. It ends with the value.
#[derive(Debug)]
pub(super) struct ReconcilerTask {
    conditions: watch::Receiver<Conditions>,
    tasks: JoinSet<()>,
}

impl ReconcilerTask {
    /// Starts it by `run`, which puts it on the task set. It begins with these `conditions`.
    pub(super) fn start(
        conditions: Conditions,
        run: impl FnOnce(&mut JoinSet<()>, watch::Sender<Conditions>),
    ) -> Self {
        let (sender, conditions) = watch::channel(conditions);
        let mut tasks = JoinSet::new();
        run(&mut tasks, sender);
        Self { conditions, tasks }
    }

    /// Waits until it reports, but not for longer than `limit`.
    pub(super) async fn reported(&mut self, limit: Duration) {
        drop(timeout(limit, self.conditions.changed()).await);
    }

    /// Waits until it ends, which it does only by a panic.
    pub(super) fn failed(&mut self) -> LocalBoxFuture<'_, BackendError> {
        Box::pin(async {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => BackendError::Panicked,
                Some(_) | None => std::future::pending().await,
            }
        })
    }

    /// What it reported last.
    pub(super) fn conditions(&self) -> Conditions {
        self.conditions.borrow().clone()
    }
}
