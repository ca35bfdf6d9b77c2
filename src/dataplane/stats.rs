//! What the workers counted.

use serde::Serialize;

/// A reading of all counters; serialises to the JSON that `/stats` serves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatsSnapshot {}
