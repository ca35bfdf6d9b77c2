//! [`Heartbeat`]: detects a loop of the daemon that hangs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A loop that turns at least once a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Loop {
    /// The daemon's loop, which handles signals, from the beginning.
    Daemon,
    /// The node's loop, once there is a node.
    Node,
}

/// How often a loop with nothing to do turns.
pub(in crate::control) const BEAT: Duration = Duration::from_secs(1);

/// How long a loop may take for one turn. The longest that was seen on a busy machine is a
/// fraction of a second, for the first 100,000 leases.
const LIMIT: Duration = Duration::from_secs(10);

/// When each loop turned last.
#[derive(Debug)]
pub(super) struct Heartbeat {
    limit: Duration,
    last: Mutex<[Option<Instant>; 2]>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl Heartbeat {
    /// Of loops that may take `limit` for a turn; none has turned yet.
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, last: Mutex::new([None; 2]) }
    }

    /// Takes note of a turn.
    pub(super) fn beat(&self, turned: Loop, now: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last[turned as usize] = Some(now);
    }

    /// Which loop no longer turns, in words.
    pub(super) fn stalled(&self, now: Instant) -> Option<String> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let loops = [(Loop::Daemon, "the daemon's loop"), (Loop::Node, "the node's loop")];
        loops.into_iter().find_map(|(which, name)| {
            let since = now.saturating_duration_since(last[which as usize]?);
            (since > self.limit).then(|| format!("{name} has not turned for {} s", since.as_secs()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_that_has_begun_must_go_on() {
        let (heartbeat, start) = (Heartbeat::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(heartbeat.stalled(after(100)), None, "there is none yet");
        heartbeat.beat(Loop::Daemon, start);
        heartbeat.beat(Loop::Node, start);
        assert_eq!(heartbeat.stalled(after(10)), None);
        heartbeat.beat(Loop::Daemon, after(9));
        let stalled = heartbeat.stalled(after(12)).unwrap();
        assert_eq!(stalled, "the node's loop has not turned for 12 s");
        heartbeat.beat(Loop::Node, after(12));
        assert_eq!(heartbeat.stalled(after(13)), None);
        assert!(heartbeat.stalled(after(20)).unwrap().starts_with("the daemon's loop"));
    }
}
