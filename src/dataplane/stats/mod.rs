//! What the workers counted: plain counters, one writer each, read by anybody.

pub mod drop_reason;
pub mod peers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use self::drop_reason::DropReason;
use self::peers::PeerCounters;
use super::offload::Offloads;
use super::offload::state::{OffloadSnapshot, OffloadStates};
use super::pmtu::PathSnapshot;

/// A counter that one thread adds to. It needs no locked instruction, only a store that cannot
/// be torn.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the counter's own worker calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Begins again at zero. Only the counter's own worker calls this.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one direction of one worker.
#[derive(Debug, Default)]
pub struct DirectionStats {
    /// Inner packets forwarded; each segment of a superpacket counts.
    pub packets: Counter,
    /// Their bytes, inner headers included.
    pub bytes: Counter,
    /// System calls that carried them out: sends, or writes to the TUN.
    pub writes: Counter,
    /// The packets once more, by the peer they went to or came from.
    pub peers: PeerCounters,
    drops: [Counter; DropReason::ALL.len()],
}

impl DirectionStats {
    /// Counts `num` packets that ended here for `reason`.
    #[inline]
    pub fn drop(&self, reason: DropReason, num: u64) {
        self.drops[reason as usize].add(num);
    }

    /// How many packets ended here for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    fn snapshot(&self) -> DirectionSnapshot {
        let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), self.dropped(reason)));
        DirectionSnapshot {
            packets: self.packets.value(),
            bytes: self.bytes.value(),
            writes: self.writes.value(),
            drops: drops.collect(),
        }
    }
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// TUN → underlay.
    pub egress: DirectionStats,
    /// Underlay → TUN.
    pub ingress: DirectionStats,
    /// IPv6 packets of link scope that the host's kernel sent on the overlay device: no drops, as
    /// nobody waits for them anywhere.
    pub ignored_ipv6: Counter,
    /// ICMP errors sent.
    pub icmp_sent: Counter,
    /// ICMP errors not sent because there were too many.
    pub icmp_limited: Counter,
    /// Turns that stopped at their limit with more to do.
    pub turns_cut: Counter,
    /// Datagrams the kernel dropped before we could receive them: our queue was full.
    pub queue_overflows: Counter,
    /// Receive calls that failed for another reason than that nothing was there.
    pub socket_errors: Counter,
    /// Reads from the TUN that failed for another reason than that nothing was there.
    pub tun_errors: Counter,
    /// Errors that came back about datagrams sent: ICMPs of the underlay, and the kernel's own
    /// about datagrams that are too long for a path it knows.
    pub underlay_errors: Counter,
    /// Times that a peer's path was found to be narrower than was known.
    pub paths_narrowed: Counter,
    /// Times that a peer's path was found to take longer packets again.
    pub paths_recovered: Counter,
    /// Claims that a path is narrow which were not believed: not about a datagram of ours, or
    /// disproved by a probe.
    pub pmtu_refused: Counter,
    /// Datagrams that were sent whole to see whether a path takes them.
    pub pmtu_probes: Counter,
    /// Sleeps: times the worker found nothing to do.
    pub polls: Counter,
    /// What became of each offload.
    pub offloads: OffloadStates,
}

impl WorkerStats {
    /// Which offloads are in use.
    pub fn offloads(&self) -> Offloads {
        self.offloads.in_use()
    }

    /// Reads every counter.
    pub fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot {
            offloads: self.offloads().to_string(),
            offload_state: self.offloads.snapshot(),
            egress: self.egress.snapshot(),
            ingress: self.ingress.snapshot(),
            ignored_ipv6: self.ignored_ipv6.value(),
            icmp_sent: self.icmp_sent.value(),
            icmp_limited: self.icmp_limited.value(),
            turns_cut: self.turns_cut.value(),
            queue_overflows: self.queue_overflows.value(),
            socket_errors: self.socket_errors.value(),
            tun_errors: self.tun_errors.value(),
            underlay_errors: self.underlay_errors.value(),
            paths_narrowed: self.paths_narrowed.value(),
            paths_recovered: self.paths_recovered.value(),
            pmtu_refused: self.pmtu_refused.value(),
            pmtu_probes: self.pmtu_probes.value(),
            polls: self.polls.value(),
        }
    }
}

/// A reading of all counters; serialises to the JSON that `/stats` serves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatsSnapshot {
    /// One entry for each worker, by number.
    pub workers: Vec<WorkerSnapshot>,
    /// The paths that are known to take shorter packets than the overlay has, by peer.
    pub narrow_paths: Vec<PathSnapshot>,
}

/// A reading of one worker's counters; [`WorkerStats`] says what each means.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "WorkerStats says it")]
pub struct WorkerSnapshot {
    /// Names of the offloads in use, or `off`.
    pub offloads: String,
    /// What became of each offload, by its name.
    pub offload_state: BTreeMap<&'static str, OffloadSnapshot>,
    pub egress: DirectionSnapshot,
    pub ingress: DirectionSnapshot,
    pub ignored_ipv6: u64,
    pub icmp_sent: u64,
    pub icmp_limited: u64,
    pub turns_cut: u64,
    pub queue_overflows: u64,
    pub socket_errors: u64,
    pub tun_errors: u64,
    pub underlay_errors: u64,
    pub paths_narrowed: u64,
    pub paths_recovered: u64,
    pub pmtu_refused: u64,
    pub pmtu_probes: u64,
    pub polls: u64,
}

/// A reading of one direction's counters; [`DirectionStats`] says what each means.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "DirectionStats says it")]
pub struct DirectionSnapshot {
    pub packets: u64,
    pub bytes: u64,
    pub writes: u64,
    /// Packets that ended here, by [`DropReason::name`].
    pub drops: BTreeMap<&'static str, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_every_drop_reason() {
        let stats = WorkerStats::default();
        stats.ingress.drop(DropReason::Oversized, 3);
        let json = serde_json::to_value(stats.snapshot()).unwrap();
        assert_eq!(json["ingress"]["drops"]["oversized"], 3);
        assert_eq!(json["egress"]["drops"]["no_route"], 0);
        assert_eq!(json["offload_state"]["gso"]["in_use"], false);
        let drops = json["ingress"]["drops"].as_object().unwrap();
        assert_eq!(drops.len(), DropReason::ALL.len());
    }
}
