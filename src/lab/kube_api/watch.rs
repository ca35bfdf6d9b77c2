//! One watch: what has happened since a version, then what happens, until its time is up.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::KubeApi;
use super::answer::{Answer, lines, status, status_object};

/// How often a watch says up to which version nothing has happened. A real server does every minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts a watch from the version `from` on.
pub(super) fn start(api: KubeApi, from: u64, secs: u64) -> Answer {
    let (revision, num_drops) = {
        let store = api.store();
        (store.revision, store.num_drops)
    };
    if from > revision {
        let message = format!("Timeout: Too large resource version: {from}, current: {revision}");
        return status(StatusCode::GATEWAY_TIMEOUT, "Timeout", &message);
    }
    let (sink, receiver) = mpsc::channel(64);
    let end = Instant::now() + Duration::from_secs(secs);
    // Ends when nobody reads any more.
    tokio::spawn(async move { drop(Watch { api, sink, cursor: from, num_drops }.run(end).await) });
    lines(receiver)
}

struct Watch {
    api: KubeApi,
    sink: mpsc::Sender<io::Result<Bytes>>,
    cursor: u64,
    num_drops: u64,
}

/// Nobody reads any more, or the watch has ended.
struct Ended;

impl Watch {
    async fn run(mut self, end: Instant) -> Result<(), Ended> {
        let mut news = self.api.shared.news.subscribe();
        let mut bookmark = Instant::now() + BOOKMARK_INTERVAL;
        loop {
            self.deliver().await?;
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| Ended)?,
                () = sleep_until(bookmark) => {
                    bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    self.mark().await?;
                }
                () = sleep_until(end) => return Ok(()),
            }
        }
    }

    async fn deliver(&mut self) -> Result<(), Ended> {
        let (oldest, revision, num_drops, changes) = {
            let store = self.api.store();
            let changes = store.history.iter().filter(|change| change.revision > self.cursor);
            let changes: Vec<_> = changes.cloned().collect();
            (store.oldest, store.revision, store.num_drops, changes)
        };
        if num_drops != self.num_drops {
            drop(self.sink.send(Err(io::ErrorKind::ConnectionReset.into())).await);
            return Err(Ended);
        }
        if self.cursor < oldest || self.cursor > revision {
            let message = format!("too old resource version: {} ({oldest})", self.cursor);
            self.send("ERROR", &status_object(StatusCode::GONE, "Expired", &message)).await?;
            return Err(Ended);
        }
        for change in changes {
            self.cursor = change.revision;
            self.send(change.kind, &change.node).await?;
        }
        Ok(())
    }

    async fn mark(&mut self) -> Result<(), Ended> {
        self.cursor = self.api.store().revision.max(self.cursor);
        let version = json!({ "resourceVersion": self.cursor.to_string() });
        let node = json!({ "kind": "Node", "apiVersion": "v1", "metadata": version });
        self.send("BOOKMARK", &node).await
    }

    async fn send(&self, kind: &str, object: &Value) -> Result<(), Ended> {
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        self.sink.send(Ok(Bytes::from(line))).await.map_err(|_| Ended)
    }
}
