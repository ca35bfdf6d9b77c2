//! Counters of one worker.

use std::collections::BTreeMap;

use serde::Serialize;

use super::counter::Counter;
use super::direction::{DirectionSnapshot, DirectionStats};
use super::offload_state::{OffloadSnapshot, OffloadStates};
use super::peer_error::PeerErrors;
use crate::dataplane::offload::Offloads;

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// TUN → underlay.
    pub egress: DirectionStats,
    /// Underlay → TUN.
    pub ingress: DirectionStats,
    /// IPv6 packets of link scope that the host's kernel sent on the overlay device. They do not
    /// count as drops: no other node expects them.
    pub ignored_ipv6: Counter,
    /// ICMP errors sent.
    pub icmp_sent: Counter,
    /// ICMP errors not sent because there were too many.
    pub icmp_limited: Counter,
    /// Turns that used up their budget and left packets for the next turn.
    pub budget_exhausted: Counter,
    /// Datagrams the kernel dropped before we could receive them: our queue was full.
    pub queue_overflows: Counter,
    /// Receive calls that failed, other than with `WouldBlock`.
    pub socket_errors: Counter,
    /// Reads from the TUN that failed, other than with `WouldBlock`.
    pub tun_errors: Counter,
    /// Errors about datagrams sent: ICMPs from the underlay, and the kernel's own errors about
    /// datagrams that are too long for a path it knows.
    pub underlay_errors: Counter,
    /// Times that the path MTU of a peer went down.
    pub pmtu_decreases: Counter,
    /// Times that the path MTU of a peer went up again.
    pub paths_recovered: Counter,
    /// Rejected claims that a path is narrow: not about a datagram of ours, or disproved by a probe.
    pub pmtu_refused: Counter,
    /// Datagrams sent whole to test whether they fit their path.
    pub pmtu_probes: Counter,
    /// Times that the worker found nothing to do and slept.
    pub polls: Counter,
    /// The state of each offload.
    pub offloads: OffloadStates,
    /// Errors about datagrams to peers, for control.
    pub peer_errors: PeerErrors,
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
            budget_exhausted: self.budget_exhausted.value(),
            queue_overflows: self.queue_overflows.value(),
            socket_errors: self.socket_errors.value(),
            tun_errors: self.tun_errors.value(),
            underlay_errors: self.underlay_errors.value(),
            pmtu_decreases: self.pmtu_decreases.value(),
            paths_recovered: self.paths_recovered.value(),
            pmtu_refused: self.pmtu_refused.value(),
            pmtu_probes: self.pmtu_probes.value(),
            polls: self.polls.value(),
        }
    }
}

/// A reading of one worker's counters; [`WorkerStats`] says what each means.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "WorkerStats says it")]
pub struct WorkerSnapshot {
    /// Names of the offloads in use, or `off`.
    pub offloads: String,
    /// The state of each offload, by its name.
    pub offload_state: BTreeMap<&'static str, OffloadSnapshot>,
    pub egress: DirectionSnapshot,
    pub ingress: DirectionSnapshot,
    pub ignored_ipv6: u64,
    pub icmp_sent: u64,
    pub icmp_limited: u64,
    pub budget_exhausted: u64,
    pub queue_overflows: u64,
    pub socket_errors: u64,
    pub tun_errors: u64,
    pub underlay_errors: u64,
    pub pmtu_decreases: u64,
    pub paths_recovered: u64,
    pub pmtu_refused: u64,
    pub pmtu_probes: u64,
    pub polls: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::stats::drop_reason::DropReason;

    #[test]
    fn snapshot_names_every_drop_reason() {
        let stats = WorkerStats::default();
        stats.ingress.drop(DropReason::Oversized, 3, &[], 1500);
        let json = serde_json::to_value(stats.snapshot()).unwrap();
        assert_eq!(json["ingress"]["drops"]["oversized"], 3);
        assert_eq!(json["egress"]["drops"]["no_route"], 0);
        assert_eq!(json["offload_state"]["gso"]["in_use"], false);
        let drops = json["ingress"]["drops"].as_object().unwrap();
        assert_eq!(drops.len(), DropReason::ALL.len());
        assert_eq!(json["ingress"]["last_dropped"]["oversized"]["len"], 1500);
        assert!(json["egress"]["last_dropped"].as_object().unwrap().is_empty());
    }
}
