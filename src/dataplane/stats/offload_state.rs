//! The state of each offload: whether it was asked for, is in use, and if not, why and since when.
//! One worker writes, any thread reads; part of [`WorkerStats`](super::worker::WorkerStats).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::SystemTime;

use serde::Serialize;

use super::counter::Counter;
use crate::dataplane::offload::refusals::Refused;
use crate::dataplane::offload::{Offload, Offloads};

/// The states of all offloads of one worker.
#[derive(Debug, Default)]
pub struct OffloadStates([OffloadState; Offload::ALL.len()]);

#[derive(Debug, Default)]
struct OffloadState {
    asked: AtomicBool,
    in_use: AtomicBool,
    /// The kernel refused it after it had been in use.
    failed_later: AtomicBool,
    /// The kernel's last refusal, or 0.
    errno: AtomicI32,
    fallbacks: Counter,
    /// When `in_use` last changed, in seconds since 1970.
    since: AtomicU64,
}

impl OffloadStates {
    /// Records how the worker starts.
    pub fn start(&self, in_use: Offloads, refused: Refused) {
        for (&offload, state) in Offload::ALL.iter().zip(&self.0) {
            let errno = refused.errno(offload);
            state.asked.store(in_use.has(offload) || errno.is_some(), Ordering::Relaxed);
            state.errno.store(errno.unwrap_or(0), Ordering::Relaxed);
            state.failed_later.store(false, Ordering::Relaxed);
            state.change(in_use.has(offload));
        }
    }

    /// Counts `num` sends or writes that the kernel refused because of `offload` and that were
    /// repeated packet by packet.
    pub fn count_fallbacks(&self, offload: Offload, num: u64) {
        self.0[offload as usize].fallbacks.add(num);
    }

    /// Records that `offload` is off for a while, because the kernel refused it with `errno`.
    pub fn suspend(&self, offload: Offload, errno: i32) {
        let state = &self.0[offload as usize];
        state.errno.store(errno, Ordering::Relaxed);
        state.failed_later.store(true, Ordering::Relaxed);
        state.change(false);
    }

    /// Records that `offload` is used again.
    pub fn resume(&self, offload: Offload) {
        self.0[offload as usize].change(true);
    }

    /// Which offloads are in use.
    pub fn in_use(&self) -> Offloads {
        let on = |offload: Offload| self.0[offload as usize].in_use.load(Ordering::Relaxed);
        Offloads {
            tso: on(Offload::Tso),
            uso: on(Offload::Uso),
            gso: on(Offload::Gso),
            gro: on(Offload::Gro),
        }
    }

    /// Reads the states, by the offloads' names.
    pub fn snapshot(&self) -> BTreeMap<&'static str, OffloadSnapshot> {
        let states = Offload::ALL.iter().zip(&self.0);
        states.map(|(offload, state)| (offload.name(), state.snapshot())).collect()
    }
}

impl OffloadState {
    fn change(&self, in_use: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.since.store(now.map_or(0, |now| now.as_secs()), Ordering::Relaxed);
        self.in_use.store(in_use, Ordering::Relaxed);
    }

    fn snapshot(&self) -> OffloadSnapshot {
        let (asked, in_use) =
            (self.asked.load(Ordering::Relaxed), self.in_use.load(Ordering::Relaxed));
        let error = io::Error::from_raw_os_error(self.errno.load(Ordering::Relaxed));
        let why_not = match (asked, in_use, self.failed_later.load(Ordering::Relaxed)) {
            (_, true, _) => None,
            (false, false, _) => Some("not asked for".to_owned()),
            (true, false, false) => Some(format!("refused at start: {error}")),
            (true, false, true) => Some(format!("refused while running: {error}; tried again")),
        };
        let (fallbacks, since) = (self.fallbacks.value(), self.since.load(Ordering::Relaxed));
        OffloadSnapshot { asked, in_use, why_not, since, fallbacks }
    }
}

/// A reading of one offload's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffloadSnapshot {
    /// The operator's choice includes it.
    pub asked: bool,
    /// It is in use.
    pub in_use: bool,
    /// Why it is not in use.
    pub why_not: Option<String>,
    /// Since when it is so, in seconds since 1970.
    pub since: u64,
    /// Sends or writes that the kernel refused because of the offload and that were repeated packet
    /// by packet; not each of them turned the offload off.
    pub fallbacks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GSO_ONLY: Offloads = Offloads { gso: true, ..Offloads::OFF };

    #[test]
    fn start_records_what_was_asked_for_and_what_was_refused() {
        let states = OffloadStates::default();
        let refused = Refused::default().with(Offload::Gro, &io::Error::from_raw_os_error(92));
        states.start(GSO_ONLY, refused);
        assert_eq!(states.in_use(), GSO_ONLY);
        let snapshot = states.snapshot();
        assert_eq!(snapshot["tso"].why_not.as_deref(), Some("not asked for"));
        assert!(!snapshot["tso"].asked && snapshot["gso"].asked && snapshot["gro"].asked);
        assert_eq!(snapshot["gso"].why_not, None);
        let why_not = snapshot["gro"].why_not.clone().unwrap();
        assert!(why_not.starts_with("refused at start: Protocol not available"), "{why_not}");
    }

    #[test]
    fn refusal_while_running_shows_until_it_is_over() {
        let states = OffloadStates::default();
        states.start(Offloads::AUTO, Refused::default());
        states.count_fallbacks(Offload::Gso, 3);
        states.suspend(Offload::Gso, libc::EIO);
        let state = states.snapshot()["gso"].clone();
        assert_eq!((state.asked, state.in_use, state.fallbacks), (true, false, 3));
        assert!(state.why_not.unwrap().contains("while running: Input/output error"));
        assert!(state.since > 1_600_000_000, "{}", state.since);
        states.resume(Offload::Gso);
        let state = states.snapshot()["gso"].clone();
        assert_eq!((state.in_use, state.why_not, state.fallbacks), (true, None, 3));
    }

    #[test]
    fn every_combination_reads_back() {
        for offloads in Offloads::combinations() {
            let states = OffloadStates::default();
            states.start(offloads, Refused::default());
            assert_eq!(states.in_use(), offloads);
        }
    }
}
