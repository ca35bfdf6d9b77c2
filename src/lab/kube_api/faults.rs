//! [`Faults`]: how the server misbehaves.

use serde::{Deserialize, Serialize};

/// How the server misbehaves. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The only token that is accepted, if any is needed.
    pub token: Option<String>,
    /// What nobody may do: `list nodes`, `watch nodes`, `patch nodes/status`, `get pods`.
    pub denied: Vec<String>,
    /// Milliseconds before each answer.
    pub delay_ms: u64,
    /// Whether requests get no answer at all.
    pub is_silent: bool,
    /// Status of every answer, instead of the right one.
    pub status: Option<u16>,
    /// Seconds after which every watch ends, whatever was asked for.
    pub watch_secs: Option<u64>,
}
