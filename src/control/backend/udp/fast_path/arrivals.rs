//! [`Arrivals`]: whether what arrives from peers is what the fast path is for.

use crate::dataplane::fast_path::{FastConfig, FastCounters};

/// Periods in a row in which what arrives is not what the fast path is for, until it is given up.
const MAX_BAD_PERIODS: u32 = 2;

/// A wire is one of single frames if so many long ones come in a period, and so many times more than
/// superpackets: where superpackets come, a flow ends one with a shorter frame now and then.
const MANY_FRAMES: u64 = 5000;
const FRAMES_TO_SUPERPACKETS: u64 = 10;

/// What has arrived from peers, and for how many periods something was wrong with it.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrivals {
    counters: FastCounters,
    /// Whether GRO is to make superpackets of single frames.
    gro_merges: bool,
    stuck: u32,
    framed: u32,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Packets go into the vxlan device, and none comes out.
    Stuck,
    /// Bulk flows come in single frames.
    Frames,
    /// XDP leaves them so: it cannot mark what it takes.
    NoMetadata,
}

impl Trouble {
    /// The same in words, for a device that has it.
    pub(super) fn reason(self, config: &FastConfig) -> Option<String> {
        let name = &config.underlay.name;
        match self {
            Self::Stuck => config.gpe.as_ref().map(|gpe| {
                format!(
                    "packets from peers do not reach {}: let UDP port {} in from the peers, and \
                     restart flanneld",
                    gpe.device.name, gpe.port
                )
            }),
            Self::Frames => Some(match merging_device(config) {
                Some(name) => format!(
                    "packets from peers stay single frames on {name}: turn on its generic receive \
                     offload (`ethtool -K {name} gro on`) and restart flanneld",
                ),
                None => format!(
                    "peers' packets reach {name} in single frames: the workers are faster there",
                ),
            }),
            Self::NoMetadata => Some(format!(
                "{name}'s driver has no room for what XDP says to tc: leave out --fast-path=xdp"
            )),
        }
    }
}

/// The device whose GRO is to make superpackets.
pub(super) fn merging_device(config: &FastConfig) -> Option<&str> {
    let gpe = config.gpe.as_ref().filter(|gpe| gpe.merges).map(|gpe| &gpe.device);
    gpe.or(config.xdp.as_ref().map(|_| &config.underlay)).map(|device| device.name.as_str())
}

impl Arrivals {
    /// Nothing has arrived since this was counted.
    pub(super) fn after(counters: FastCounters, gro_merges: bool) -> Self {
        Self { counters, gro_merges, ..Self::default() }
    }

    /// Takes over what was counted in one more period; what has been wrong for some of them.
    pub(super) fn trouble(&mut self, now: FastCounters) -> Option<Trouble> {
        let before = std::mem::replace(&mut self.counters, now);
        let num_in = self.counters.gpe_in - before.gpe_in;
        let num_out = self.counters.gpe_out - before.gpe_out;
        let num_merged = self.counters.merged - before.merged;
        let num_frames = self.counters.frames - before.frames;
        let is_stuck = num_in > 0 && num_out == 0;
        let num_superpackets = if self.gro_merges { num_merged } else { num_in };
        let is_framed = num_frames >= MANY_FRAMES.max(FRAMES_TO_SUPERPACKETS * num_superpackets);
        self.stuck = if is_stuck { self.stuck + 1 } else { 0 };
        self.framed = if is_framed { self.framed + 1 } else { 0 };
        if self.stuck >= MAX_BAD_PERIODS {
            return Some(Trouble::Stuck);
        }
        let num_unmarked =
            |counters: &FastCounters| counters.xdp.passed.get("no_metadata").copied();
        let is_marked = num_unmarked(&self.counters) == num_unmarked(&before);
        let trouble = if is_marked { Trouble::Frames } else { Trouble::NoMetadata };
        (self.framed >= MAX_BAD_PERIODS).then_some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong after periods with these sums of superpackets in and out, and of frames.
    fn trouble(sums: &[(u64, u64, u64)]) -> Option<Trouble> {
        let mut arrivals = Arrivals::default();
        let counters = |&(gpe_in, gpe_out, frames)| {
            arrivals.trouble(FastCounters { gpe_in, gpe_out, frames, ..FastCounters::default() })
        };
        sums.iter().map(counters).last().flatten()
    }

    #[test]
    fn device_that_swallows_superpackets_is_noticed_and_an_idle_one_is_not() {
        assert_eq!(trouble(&[(0, 0, 0), (0, 0, 0), (0, 0, 0)]), None);
        assert_eq!(trouble(&[(10, 9, 0), (20, 20, 0), (21, 20, 0), (21, 21, 0)]), None);
        assert_eq!(trouble(&[(5, 0, 0), (5, 0, 0), (5, 0, 0)]), None, "nothing new went in");
        assert_eq!(trouble(&[(5, 0, 0), (6, 0, 0)]), Some(Trouble::Stuck));
    }

    #[test]
    fn wire_of_single_frames_is_noticed_and_the_ends_of_superpackets_are_not() {
        assert_eq!(trouble(&[(0, 0, 9000), (0, 0, 18_000)]), Some(Trouble::Frames));
        assert_eq!(trouble(&[(0, 0, 9000), (0, 0, 9100)]), None, "it was short");
        assert_eq!(trouble(&[(9000, 9000, 9000), (18_000, 18_000, 18_000)]), None);
        assert_eq!(trouble(&[(0, 0, 100), (0, 0, 200), (0, 0, 300)]), None, "hardly anything");
    }

    #[test]
    fn xdp_that_gro_does_not_follow_is_noticed_and_why() {
        let after = |merged, no_metadata| {
            let mut arrivals = Arrivals { gro_merges: true, ..Arrivals::default() };
            let counters = |period: u64| {
                let (frames, merged) = (9000 * period, merged * period);
                let mut counters = FastCounters { frames, merged, ..FastCounters::default() };
                counters.xdp.passed.insert("no_metadata", no_metadata * period);
                arrivals.trouble(counters)
            };
            [1, 2].map(counters)[1]
        };
        assert_eq!(after(0, 0), Some(Trouble::Frames));
        assert_eq!(after(0, 9000), Some(Trouble::NoMetadata));
        assert_eq!(after(1000, 0), None);
    }
}
