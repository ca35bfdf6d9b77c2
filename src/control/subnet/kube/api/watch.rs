//! [`NodeWatch`]: what happens to the nodes, line by line.

use std::time::Duration;

use hyper::Method;

use super::error::Operation;
use super::objects::{WatchEvent, WatchedObject};
use super::{ApiClient, ApiError, MAX_OBJECT, NodeObject, encode, parse, read_node};
use crate::control::util::http_client::{Request, Response};

/// How long past the end that we asked for a watch may go on.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// A running watch.
pub(in crate::control::subnet::kube) struct NodeWatch {
    response: Response,
    ends_by: tokio::time::Instant,
}

/// What a watch says.
#[derive(Debug)]
pub(in crate::control::subnet::kube) enum NodeEvent {
    /// The node is new, or different.
    Put(Box<NodeObject>),
    /// The node is gone.
    Deleted(Box<NodeObject>),
    /// Nothing happened up to this version.
    Bookmark(String),
}

impl ApiClient {
    /// Starts to watch all nodes, from the version `from` on.
    pub(in crate::control::subnet::kube) async fn watch_nodes(
        &self,
        from: &str,
        length: Duration,
    ) -> Result<NodeWatch, ApiError> {
        let (seconds, from) = (length.as_secs(), encode(from));
        let path = format!(
            "/api/v1/nodes?allowWatchBookmarks=true&resourceVersion={from}&timeout={}m{}s\
             &timeoutSeconds={seconds}&watch=true",
            seconds / 60,
            seconds % 60
        );
        let response = self.send(Operation::WatchNodes, Request::new(Method::GET, path)).await?;
        let ends_by = tokio::time::Instant::now() + length + WATCH_GRACE;
        Ok(NodeWatch { response, ends_by })
    }
}

impl NodeWatch {
    /// What happens next; `None` when the watch has ended in good order.
    pub(in crate::control::subnet::kube) async fn next(
        &mut self,
    ) -> Result<Option<NodeEvent>, ApiError> {
        loop {
            let line = self.response.next_line(MAX_OBJECT);
            let line = tokio::time::timeout_at(self.ends_by, line).await;
            let Some(line) = line.map_err(|_| ApiError::EndlessWatch)?? else { return Ok(None) };
            if !line.trim_ascii().is_empty() {
                return read_event(&line).map(Some);
            }
        }
    }
}

pub(super) fn read_event(line: &[u8]) -> Result<NodeEvent, ApiError> {
    let operation = Operation::WatchNodes;
    let event: WatchEvent<'_> = parse(operation, line)?;
    let object = event.object.get().as_bytes();
    match event.kind.as_ref() {
        "ADDED" | "MODIFIED" => Ok(NodeEvent::Put(Box::new(read_node(operation, object)?))),
        "DELETED" => Ok(NodeEvent::Deleted(Box::new(read_node(operation, object)?))),
        "BOOKMARK" => {
            let object: WatchedObject = parse(operation, object)?;
            Ok(NodeEvent::Bookmark(object.metadata.resource_version))
        }
        "ERROR" => Err(ApiError::ended(parse(operation, object)?)),
        other => {
            let other: String = other.chars().take(40).collect();
            Err(ApiError::Malformed(operation, format!("{other:?} is no type of an event")))
        }
    }
}
