//! The node's condition NetworkUnavailable: while it is not `False`, no pod is scheduled there.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;

use super::own_node::{OwnNode, Pace};
use crate::control::util::time_text::utc;

/// Writes the condition once `announced` is true, again until it is accepted, and whenever somebody
/// else sets it back. Stock tries once. Hands `sink` why it cannot be written, or `None`.
///
/// # Cancel safety
/// Dropped half-way, the condition may be written or not.
pub(super) async fn keep_condition(
    own: &OwnNode,
    mut announced: watch::Receiver<bool>,
    sink: impl Fn(Option<String>),
) -> Infallible {
    if announced.wait_for(|announced| *announced).await.is_err() {
        std::future::pending::<()>().await;
    }
    let (mut changes, mut pace, mut is_written) = (own.changes(), Pace::new(), false);
    loop {
        changes.mark_unchanged();
        let current = own.current();
        let is_set =
            current.as_ref().map(|node| node.network_unavailable.as_deref() == Some("False"));
        match is_set {
            // The first time it is written whatever it is: its time says when we came.
            Some(is_set) if !is_set || !is_written => {
                let asked = match own.patch(patch(&utc(SystemTime::now()))).await {
                    Ok(()) => {
                        is_written = true;
                        sink(None);
                        Duration::ZERO
                    }
                    Err(error) => {
                        sink(Some(own.complain("condition", &error)));
                        error.retry_after()
                    }
                };
                pace.pause(asked).await;
            }
            Some(_) | None => {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// The bytes of stock's patch: `setNodeNetworkUnavailableFalse` in flannel's `pkg/subnet/kube/kube.go`.
fn patch(now: &str) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Condition<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        status: &'static str,
        last_heartbeat_time: &'a str,
        last_transition_time: &'a str,
        reason: &'static str,
        message: &'static str,
    }
    let condition = Condition {
        kind: "NetworkUnavailable",
        status: "False",
        last_heartbeat_time: now,
        last_transition_time: now,
        reason: "FlannelIsUp",
        message: "Flannel is running on this node",
    };
    // Texts can always be written.
    let condition = serde_json::to_string(&condition).unwrap_or_default();
    format!(r#"{{"status":{{"conditions":[{condition}]}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::patch;

    #[test]
    fn patch_has_the_bytes_of_stocks() {
        let stock = concat!(
            r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","#,
            r#""lastHeartbeatTime":"2026-11-25T21:00:00Z","lastTransitionTime":"2026-11-25T21:00:00Z","#,
            r#""reason":"FlannelIsUp","message":"Flannel is running on this node"}]}}"#
        );
        assert_eq!(patch("2026-11-25T21:00:00Z"), stock);
    }
}
