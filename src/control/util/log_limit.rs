//! [`LogLimit`]: repeats a message at most once a minute.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Lets a message of each kind through, and its repetitions once a minute.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: HashMap<String, Instant>,
}

impl LogLimit {
    /// Least time between two messages of a kind.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

    /// Whether a message of this kind is due. If so, the next one is due a minute from now.
    pub(crate) fn is_due(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        self.last.retain(|_, last| now - *last < Self::INTERVAL);
        if self.last.contains_key(kind) {
            return false;
        }
        self.last.insert(kind.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_kind_is_due_once_a_minute() {
        let mut limit = LogLimit::default();
        assert!(limit.is_due("a"));
        assert!(limit.is_due("b"));
        tokio::time::advance(LogLimit::INTERVAL - Duration::from_secs(1)).await;
        assert!(!limit.is_due("a"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limit.is_due("a"));
        assert!(!limit.is_due("a"));
        assert_eq!(limit.last.len(), 1, "kinds of the last minute only");
    }
}
