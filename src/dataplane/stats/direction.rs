//! Counters of one direction of one worker.

use std::collections::BTreeMap;

use serde::Serialize;

use super::counter::Counter;
use super::drop_reason::DropReason;
use super::offender::{LastOffender, Offender, is_sampled};
use super::peers::PeerCounters;

/// Counters of one direction of one worker.
#[derive(Debug, Default)]
pub struct DirectionStats {
    /// Inner packets forwarded; each segment of a superpacket counts.
    pub packets: Counter,
    /// Their bytes, inner headers included.
    pub bytes: Counter,
    /// System calls that carried them: sends, or writes to the TUN.
    pub writes: Counter,
    /// System calls that brought them: reads from the TUN, or receives.
    pub reads: Counter,
    /// The same packets by the peer they went to or came from.
    pub peers: PeerCounters,
    drops: [Counter; DropReason::ALL.len()],
    offenders: [LastOffender; DropReason::ALL.len()],
}

impl DirectionStats {
    /// Counts `num` packets dropped for `reason`. One of them has `len` bytes and begins with `head`,
    /// or `head` is empty if its bytes are not known.
    #[inline]
    pub fn drop(&self, reason: DropReason, num: u64, head: &[u8], len: usize) {
        let counter = &self.drops[reason as usize];
        if is_sampled(counter.value(), num) {
            self.offenders[reason as usize].set(head, len);
        }
        counter.add(num);
    }

    /// How many packets were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    pub(super) fn snapshot(&self) -> DirectionSnapshot {
        let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), self.dropped(reason)));
        let last_dropped = DropReason::ALL
            .iter()
            .filter_map(|&reason| Some((reason.name(), self.offenders[reason as usize].read()?)));
        DirectionSnapshot {
            packets: self.packets.value(),
            bytes: self.bytes.value(),
            writes: self.writes.value(),
            reads: self.reads.value(),
            drops: drops.collect(),
            last_dropped: last_dropped.collect(),
        }
    }
}

/// A reading of one direction's counters; [`DirectionStats`] says what each means.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "DirectionStats says it")]
pub struct DirectionSnapshot {
    pub packets: u64,
    pub bytes: u64,
    pub writes: u64,
    pub reads: u64,
    /// Dropped packets, by [`DropReason::name`].
    pub drops: BTreeMap<&'static str, u64>,
    /// For each of these reasons one of the last packets; in a flood not each is written down.
    pub last_dropped: BTreeMap<&'static str, Offender>,
}
