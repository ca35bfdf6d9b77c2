//! [`OwnNode`]: our node, as the API server has it, and what we write there.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::annotations::Annotations;
use super::api::{ApiClient, ApiError};
use super::node::Node;
use crate::control::config::kube::AnnotationPrefix;
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;

/// Somebody who undoes what we write after a time as long as this does not do it in a loop.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// Our node.
pub(super) struct OwnNode {
    api: Arc<ApiClient>,
    prefix: AnnotationPrefix,
    pub(super) name: String,
    /// What the watch says of it; `None` while it is not known to exist.
    seen: watch::Sender<Option<Node>>,
    /// What it was after our last patch.
    patched: RefCell<Option<Node>>,
    /// The operator's address that is in use.
    overwrite: RefCell<Option<Ipv4Addr>>,
    log: RefCell<LogLimit>,
}

/// The pace at which something is written again and again.
#[derive(Debug)]
pub(super) struct Pace {
    backoff: Backoff,
    last: Option<Instant>,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            last: None,
        }
    }

    /// Waits after a write, or an attempt, and longer if the one before was not long ago; at least for
    /// as long as the server asked for.
    pub(super) async fn pause(&mut self, asked: Duration) {
        if self.last.is_some_and(|last| last.elapsed() > QUIET_TIME) {
            self.backoff.reset();
        }
        self.last = Some(Instant::now());
        sleep(self.backoff.delay().max(asked)).await;
    }
}

impl OwnNode {
    pub(super) fn new(api: Arc<ApiClient>, prefix: AnnotationPrefix, name: String) -> Self {
        Self {
            api,
            prefix,
            name,
            seen: watch::Sender::new(None),
            patched: RefCell::default(),
            overwrite: RefCell::default(),
            log: RefCell::default(),
        }
    }

    /// How its server is asked.
    pub(super) fn api(&self) -> &ApiClient {
        &self.api
    }

    /// Takes over what the watch says; `None` if there is no such node.
    pub(super) fn see(&self, node: Option<Node>) {
        self.seen.send_replace(node);
    }

    /// Takes over what a list says. A server that was restored from a backup has older versions.
    pub(super) fn list(&self, node: Option<Node>) {
        self.patched.take();
        self.see(node);
    }

    /// Whether it is known to exist.
    pub(super) fn exists(&self) -> bool {
        self.seen.borrow().is_some()
    }

    /// Tells of changes.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Node>> {
        self.seen.subscribe()
    }

    /// What it is by now: a watch may be behind our own patch.
    pub(super) fn current(&self) -> Option<Node> {
        let seen = self.seen.borrow().clone()?;
        let patched = self.patched.borrow();
        let newer = patched.as_ref().filter(|patched| seen.is_older_than(patched));
        Some(newer.cloned().unwrap_or(seen))
    }

    /// The address that takes the place of `--public-ip`, if the operator wants that.
    pub(super) fn node_public_ip(&self) -> Option<Ipv4Addr> {
        let node = self.current()?;
        node.annotations.node_public_ip().unwrap_or_else(|error| {
            let line = error.to_string();
            if self.log.borrow_mut().is_due(&line) {
                tracing::warn!("node {}: {line}; it is not followed", self.name);
            }
            None
        })
    }

    /// The address that peers are to send to: the operator's, or the one of our lease.
    pub(super) fn public_ip(&self, node: &Node, attrs: &LeaseAttrs) -> Ipv4Addr {
        let wanted = node.annotations.public_ip_overwrite().unwrap_or_else(|error| {
            let line = error.to_string();
            if self.log.borrow_mut().is_due(&line) {
                tracing::warn!("node {}: {line}; it is not followed", self.name);
            }
            None
        });
        if wanted != self.overwrite.replace(wanted) {
            match wanted {
                Some(ip) => tracing::info!(
                    "Overriding public ip with '{ip}' from node annotation '{}'",
                    self.prefix.key("public-ip-overwrite")
                ),
                None => tracing::info!("public ip is {} again", attrs.public_ip()),
            }
        }
        wanted.unwrap_or_else(|| attrs.public_ip())
    }

    /// Writes what its annotations are to say, if they do not.
    ///
    /// # Errors
    /// [`ApiError`]; it is as it was, as far as is known.
    pub(super) async fn annotate(&self, attrs: &LeaseAttrs) -> Result<bool, ApiError> {
        let Some(node) = self.current() else { return Ok(false) };
        let wanted = Annotations::wanted(attrs, self.public_ip(&node, attrs));
        match node.annotations.patch(&wanted, &self.prefix) {
            Some(patch) => self.patch(patch).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Merges a patch into its status.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn patch(&self, patch: String) -> Result<(), ApiError> {
        let object = self.api.patch_status(&self.name, patch).await?;
        self.patched.replace(Some(Node::read(object, &self.prefix)));
        Ok(())
    }

    /// Logs why it could not be written, once a minute.
    pub(super) fn complain(&self, what: &str, error: &ApiError) -> String {
        let line = match error.is_not_found() {
            true => format!("node {} does not exist", self.name),
            false => error.to_string(),
        };
        if self.log.borrow_mut().is_due(&line) {
            tracing::warn!("{what} of node {} cannot be written: {line}; trying again", self.name);
        }
        line
    }

    /// Writes the annotations again whenever `attrs` change, or somebody else changes them. Hands
    /// `sink` why that is not possible, or `None`.
    ///
    /// # Cancel safety
    /// Dropped half-way, the annotations may be written or not.
    pub(super) async fn keep_annotations(
        &self,
        mut attrs: watch::Receiver<LeaseAttrs>,
        sink: impl Fn(Option<String>),
    ) -> Infallible {
        let (mut changes, mut pace) = (self.changes(), Pace::new());
        loop {
            changes.mark_unchanged();
            let wanted = attrs.borrow_and_update().clone();
            let asked = match self.annotate(&wanted).await {
                Ok(false) => {
                    sink(None);
                    tokio::select! {
                        changed = changes.changed() => ended(changed).await,
                        changed = attrs.changed() => ended(changed).await,
                    }
                    continue;
                }
                Ok(true) => {
                    tracing::info!("annotations of node {} are written", self.name);
                    Duration::ZERO
                }
                Err(error) => {
                    sink(Some(self.complain("annotations", &error)));
                    error.retry_after()
                }
            };
            pace.pause(asked).await;
        }
    }
}

/// Waits for ever if nobody can change the value any more.
async fn ended(changed: Result<(), watch::error::RecvError>) {
    if changed.is_err() {
        std::future::pending::<()>().await;
    }
}
