//! [`NodeFeed`]: the list of all nodes, then every change of one, for as long as it lives.
//!
//! As client-go's reflector: a list, a watch from its version on, another watch from the last version
//! seen when one ends, another list when the server no longer has that version. A task of its own, so
//! that nobody who stops waiting for the next change loses a list that is half read. It waits when
//! `EVENT_QUEUE_DEPTH` changes have not been taken: they stay in order, and none is lost.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::api::{ApiClient, ApiError, Freshness, NodeEvent};
use super::node::Node;
use crate::control::config::kube::AnnotationPrefix;
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::rng::rng;

/// How long a watch runs, at least and at most, in seconds: `minWatchTimeout` of client-go's
/// reflector, and up to twice as long.
const WATCH_SECS: [u64; 2] = [300, 600];

/// The back-off of client-go's reflector.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A watch that ends sooner is no reason to start the next one at once.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// What is new.
#[derive(Debug)]
pub(super) enum NodeChange {
    /// These are all nodes.
    Listed(Vec<Node>),
    /// A node is new, or different.
    Put(Box<Node>),
    /// A node is gone.
    Deleted(String),
    /// The server has nothing to say, and answers again.
    Reachable,
    /// The server gives no answer that can be used. It is asked again.
    Failed,
}

/// A task that follows all nodes. Ends with the value.
#[derive(Debug)]
pub(super) struct NodeFeed {
    changes: mpsc::Receiver<NodeChange>,
    task: JoinHandle<()>,
}

impl NodeFeed {
    /// Starts to list.
    pub(super) fn start(api: Arc<ApiClient>, prefix: AnnotationPrefix, depth: usize) -> Self {
        let (sink, changes) = mpsc::channel(depth);
        let reflector = Reflector {
            api,
            prefix,
            sink,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            log: LogLimit::default(),
            has_failed: false,
        };
        Self { changes, task: tokio::spawn(async { drop(reflector.run().await) }) }
    }

    /// What is new.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> NodeChange {
        match self.changes.recv().await {
            Some(change) => change,
            // The task never ends by itself. A panic of it ends the daemon.
            None => std::future::pending().await,
        }
    }
}

impl Drop for NodeFeed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reflector {
    api: Arc<ApiClient>,
    prefix: AnnotationPrefix,
    sink: mpsc::Sender<NodeChange>,
    backoff: Backoff,
    log: LogLimit,
    has_failed: bool,
}

/// How a watch ended.
struct WatchEnd {
    /// Whether it was hardly begun.
    is_early: bool,
    /// Why it did not end in good order.
    error: Option<ApiError>,
}

/// Nobody wants to know any more.
#[derive(Debug)]
struct Unwanted;

impl Reflector {
    async fn run(mut self) -> Result<(), Unwanted> {
        let mut freshness = Freshness::Any;
        loop {
            let Some(version) = self.list(freshness).await? else { continue };
            // A list from the cache may be as old as the version that was refused.
            freshness = Freshness::Latest;
            self.follow(version).await?;
        }
    }

    /// Lists all nodes; `None` after a failure and a pause.
    async fn list(&mut self, freshness: Freshness) -> Result<Option<String>, Unwanted> {
        let mut nodes = Vec::new();
        let sink = |object| nodes.push(Node::read(object, &self.prefix));
        match self.api.list_nodes(freshness, sink).await {
            Ok(version) => {
                self.answered(false).await?;
                self.send(NodeChange::Listed(nodes)).await?;
                Ok(Some(version))
            }
            Err(error) => {
                self.failed(&error).await?;
                Ok(None)
            }
        }
    }

    /// Watches from `version` on, until a list is needed.
    async fn follow(&mut self, mut version: String) -> Result<(), Unwanted> {
        loop {
            let WatchEnd { is_early, error } = self.watch(&mut version).await?;
            match error {
                // A server that ends every watch at once must not be asked in a tight loop.
                None if is_early => sleep(self.backoff.delay()).await,
                None => {}
                Some(ApiError::Gone { .. }) => {
                    if is_early {
                        sleep(self.backoff.delay()).await;
                    }
                    return Ok(());
                }
                // The server may come back with the same versions; a list would cost a busy one more
                // than a watch.
                Some(error) if error.is_unreachable() || error.is_busy() => {
                    self.failed(&error).await?;
                }
                Some(error) => {
                    self.failed(&error).await?;
                    return Ok(());
                }
            }
        }
    }

    /// One watch, up to its end.
    async fn watch(&mut self, version: &mut String) -> Result<WatchEnd, Unwanted> {
        let [least, most] = WATCH_SECS;
        let length = Duration::from_secs(rng().random_range(least..=most));
        let mut watch = match self.api.watch_nodes(version, length).await {
            Ok(watch) => watch,
            Err(error) => return Ok(WatchEnd { is_early: true, error: Some(error) }),
        };
        self.answered(true).await?;
        let start = Instant::now();
        loop {
            let error = match watch.next().await {
                Ok(Some(event)) => {
                    self.take(event, version).await?;
                    continue;
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let is_early = start.elapsed() < SHORT_WATCH;
            if !is_early {
                self.backoff.reset();
            }
            return Ok(WatchEnd { is_early, error });
        }
    }

    async fn take(&mut self, event: NodeEvent, version: &mut String) -> Result<(), Unwanted> {
        match event {
            NodeEvent::Put(object) => {
                let node = Node::read(*object, &self.prefix);
                advance(version, &node.version);
                self.send(NodeChange::Put(Box::new(node))).await
            }
            NodeEvent::Deleted(object) => {
                let node = Node::read(*object, &self.prefix);
                advance(version, &node.version);
                self.send(NodeChange::Deleted(node.name)).await
            }
            NodeEvent::Bookmark(later) => {
                advance(version, &later);
                Ok(())
            }
        }
    }

    async fn answered(&mut self, is_quiet: bool) -> Result<(), Unwanted> {
        if std::mem::take(&mut self.has_failed) {
            tracing::info!("{} answers again", self.api.url());
            if is_quiet {
                self.send(NodeChange::Reachable).await?;
            }
        }
        Ok(())
    }

    /// Says what is wrong, once a minute, and waits.
    async fn failed(&mut self, error: &ApiError) -> Result<(), Unwanted> {
        let line = error.to_string();
        if self.log.is_due(&line) {
            tracing::warn!("nodes cannot be followed: {line}; trying again");
        }
        self.has_failed = true;
        self.send(NodeChange::Failed).await?;
        sleep(self.backoff.delay().max(error.retry_after())).await;
        Ok(())
    }

    async fn send(&self, change: NodeChange) -> Result<(), Unwanted> {
        self.sink.send(change).await.map_err(|_| Unwanted)
    }
}

/// Takes note of the version that was seen last. An event without one says nothing.
fn advance(version: &mut String, seen: &str) {
    if !seen.is_empty() {
        seen.clone_into(version);
    }
}
