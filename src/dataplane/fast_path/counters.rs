//! What the programs counted, summed over the processors.

use std::collections::BTreeMap;

use serde::Serialize;

/// Why a program left a packet to the workers, in the order of `enum reason` in `bpf/tables.h`.
const REASONS: [&str; 13] = [
    "header",
    "protocol",
    "fragment",
    "ttl",
    "no_peer",
    "worker_peer",
    "too_long",
    "no_route",
    "no_neighbour",
    "other_subnet",
    "outer_checksum",
    "burst",
    "no_metadata",
];

/// Counters of one direction: `NUM_OF_DIRECTION` in `bpf/tables.h`.
const DIRECTION_LEN: usize = 3 + REASONS.len();

/// All counters: `NUM_COUNTERS` in `bpf/tables.h`.
pub(super) const NUM_COUNTERS: usize = 3 * DIRECTION_LEN + 4;

/// What was carried to a peer, and from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Inner packets to the peer.
    pub to_packets: u64,
    /// Their bytes.
    pub to_bytes: u64,
    /// Inner packets from the peer.
    pub from_packets: u64,
    /// Their bytes.
    pub from_bytes: u64,
}

impl Traffic {
    /// Adds what was counted elsewhere.
    pub(super) const fn add(&mut self, other: &Self) {
        self.to_packets += other.to_packets;
        self.to_bytes += other.to_bytes;
        self.from_packets += other.from_packets;
        self.from_bytes += other.from_bytes;
    }

    /// What was counted after `earlier`.
    pub(super) const fn since(&self, earlier: &Self) -> Self {
        Self {
            to_packets: self.to_packets - earlier.to_packets,
            to_bytes: self.to_bytes - earlier.to_bytes,
            from_packets: self.from_packets - earlier.from_packets,
            from_bytes: self.from_bytes - earlier.from_bytes,
        }
    }
}

/// Packets in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FastDirection {
    /// Inner packets carried by the kernel alone; each segment of a superpacket counts.
    pub packets: u64,
    /// Their bytes, inner headers included.
    pub bytes: u64,
    /// Packets that could not be finished once they were begun.
    pub dropped: u64,
    /// Packets, or superpackets, that were left to the workers, by reason.
    pub passed: BTreeMap<&'static str, u64>,
}

/// What all programs counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FastCounters {
    /// TUN → underlay.
    pub egress: FastDirection,
    /// Underlay → TUN.
    pub ingress: FastDirection,
    /// What XDP made of frames before GRO, all of which `ingress` counts again.
    pub xdp: FastDirection,
    /// Superpackets, and packets to be merged, that were given to the decapsulating device.
    pub gpe_in: u64,
    /// Packets and superpackets that came out of it.
    pub gpe_out: u64,
    /// Long packets that came from peers by themselves.
    pub frames: u64,
    /// Superpackets that GRO made of what XDP or the decapsulating device took.
    pub merged: u64,
}

impl FastCounters {
    /// Of all counters, in their order.
    pub(super) fn of(sum: &[u64; NUM_COUNTERS]) -> Self {
        let (directions, others) = sum.split_at(3 * DIRECTION_LEN);
        let direction =
            |number| FastDirection::of(&directions[number * DIRECTION_LEN..][..DIRECTION_LEN]);
        Self {
            egress: direction(0),
            ingress: direction(1),
            xdp: direction(2),
            gpe_in: others[0],
            gpe_out: others[1],
            frames: others[2],
            merged: others[3],
        }
    }

    /// Adds what programs before these counted.
    pub fn add(&mut self, before: &Self) {
        self.egress.add(&before.egress);
        self.ingress.add(&before.ingress);
        self.xdp.add(&before.xdp);
        self.gpe_in += before.gpe_in;
        self.gpe_out += before.gpe_out;
        self.frames += before.frames;
        self.merged += before.merged;
    }
}

impl Default for FastDirection {
    /// Nothing was carried, nor left for any reason.
    fn default() -> Self {
        Self::of(&[0; DIRECTION_LEN])
    }
}

impl FastDirection {
    fn of(words: &[u64]) -> Self {
        let passed = REASONS.into_iter().zip(words[3..].iter().copied()).collect();
        Self { packets: words[0], bytes: words[1], dropped: words[2], passed }
    }

    fn add(&mut self, before: &Self) {
        self.packets += before.packets;
        self.bytes += before.bytes;
        self.dropped += before.dropped;
        for (reason, num) in &before.passed {
            *self.passed.entry(reason).or_default() += num;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_order() {
        let mut words = [0; NUM_COUNTERS];
        for (number, word) in (1..).zip(&mut words) {
            *word = number;
        }
        let counters = FastCounters::of(&words);
        let FastDirection { packets, bytes, dropped, passed } = &counters.egress;
        assert_eq!((*packets, *bytes, *dropped), (1, 2, 3));
        assert_eq!((passed["header"], passed["outer_checksum"]), (4, 14));
        assert_eq!((passed["burst"], passed["no_metadata"]), (15, 16));
        assert_eq!((counters.ingress.packets, counters.xdp.packets), (17, 33));
        let FastCounters { gpe_in, gpe_out, frames, merged, .. } = counters;
        assert_eq!([gpe_in, gpe_out, frames, merged], [49, 50, 51, 52]);
        let mut twice = counters.clone();
        twice.add(&counters);
        assert_eq!(twice, FastCounters::of(&words.map(|word| 2 * word)));
    }
}
