//! What etcd's v2 API answers, as JSON.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// What was done or found: the answer of any request that succeeded, and the event of a watch.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Action {
    pub(super) action: String,
    pub(super) node: Node,
    pub(super) prev_node: Option<Node>,
}

/// A key, or a directory of keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Node {
    /// From the root; empty for the root itself.
    pub(super) key: String,
    pub(super) value: String,
    pub(super) dir: bool,
    /// Whole seconds that are left; absent for a key that does not expire.
    ttl: Option<i64>,
    pub(super) nodes: Vec<Self>,
    pub(super) modified_index: i64,
    pub(super) created_index: i64,
}

/// Why a request failed (`etcdserver/api/v2error` of etcd).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failure {
    pub(super) error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    pub(super) index: i64,
}

/// The error codes that flannel has an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    KeyNotFound,
    CompareFailed,
    NodeExist,
    Unauthorized,
    /// Not in the history any more.
    IndexCleared,
    /// etcd's own trouble, such as an election: another server may do better.
    Raft,
    Other,
}

impl Action {
    /// Whether it is the end of a key: etcd has three words for that.
    pub(super) fn is_deletion(&self) -> bool {
        matches!(self.action.as_str(), "delete" | "expire" | "compareAndDelete")
    }
}

impl Node {
    /// How much longer the key exists; `None` if it does not expire. One whose time is up and that
    /// is still there counts as one that expires.
    pub(super) fn ttl(&self) -> Option<Duration> {
        self.ttl.map(|secs| Duration::from_secs(u64::try_from(secs).unwrap_or(0).max(1)))
    }
}

impl Failure {
    pub(super) const fn code(&self) -> Code {
        match self.error_code {
            100 => Code::KeyNotFound,
            101 => Code::CompareFailed,
            105 => Code::NodeExist,
            110 => Code::Unauthorized,
            401 => Code::IndexCleared,
            300..=399 => Code::Raft,
            _ => Code::Other,
        }
    }
}

/// As etcd's own tools print it: `100: Key not found (/coreos.com) [3]`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error_code, message, cause, index } = self;
        write!(f, "{error_code}: {message} ({cause}) [{index}]")
    }
}
