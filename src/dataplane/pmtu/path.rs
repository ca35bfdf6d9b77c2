//! One peer's path: what is claimed of it, what is proven, and when to probe.
//!
//! ```text
//!              claim                    probe's own bytes quoted (or three answers, see below)
//!   unknown ───────────▶ Claimed ──────────────────────────────────────▶ Proven
//!      ▲                    │ three probes unanswered                      │ the same, later
//!      │ 10 minutes         ▼                                              ▼
//!      └────────────── Disproved ◀─────────────────────────────────────────┘ (as if unknown)
//! ```
//!
//! A router that quotes the bytes of a probe has seen it: only hosts on the path know them. A router
//! that quotes only the UDP header (RFC 792) can be tested only by time: no error may come while no long
//! packet is under way, and one must come after each of three probes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Event;
use crate::dataplane::io::underlay_error::Quote;

mod claim;

/// How long to wait for the answer to a probe: longer than nearly all round trips on earth.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// Probes without an answer that show that they fit the path. One answer may be lost.
const NUM_TRIES: u8 = 3;
/// The same for silent routers, where each probe needs a pause before and after it.
const NUM_SILENT_TRIES: u8 = 2;
/// Answers that prove a claim of silent routers, which quote no byte of a probe.
const NUM_ANSWERS: u8 = 3;
/// First and longest interval between probes of a proven path.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);
/// How long a claim waits for a packet to probe with. Without one the claim does not matter.
const CLAIM_LIFETIME: Duration = Duration::from_secs(10);
/// How long a path MTU, or that claims were false, is remembered: RFC 1191, section 6.3.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// How to send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// As usual.
    Whole,
    /// In a datagram that may be fragmented.
    InFragments,
    /// Whole, as a probe of its path.
    Probe,
    /// Refused if it has DF, with this as the longest packet; otherwise in fragments.
    Refused(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Claimed,
    Proven,
    Disproved,
}

/// Progress towards the next probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No probe is due yet.
    Rest { until: Instant },
    /// Late answers to earlier datagrams may come; they prove nothing.
    Drain { until: Instant },
    /// No long packet is under way, so any error that comes is forged.
    Listen { until: Instant },
    /// The next long datagram is a probe.
    Due,
    /// A probe was sent.
    Sent { deadline: Instant },
}

/// What is known of one peer's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerPath {
    pub(super) peer: Ipv4Addr,
    /// Length of the longest inner packet, in bytes.
    longest: u16,
    state: State,
    phase: Phase,
    /// Its routers quote no byte of a probe.
    is_silent: bool,
    /// First bytes of the latest probes.
    probes: [Quote; NUM_TRIES as usize],
    /// Probes in a row without an answer.
    unanswered: u8,
    /// Probes in a row with an answer that quotes none of their bytes.
    answered: u8,
    /// Number of claims that were disproved recently.
    pub(super) disproved: u8,
    rest: Duration,
    /// When this path is forgotten.
    pub(super) forget_at: Instant,
}

impl PeerPath {
    /// A path of which nothing is known.
    pub(super) const fn new(peer: Ipv4Addr, now: Instant) -> Self {
        Self {
            peer,
            longest: u16::MAX,
            state: State::Disproved,
            phase: Phase::Rest { until: now },
            is_silent: false,
            probes: [Quote::EMPTY; NUM_TRIES as usize],
            unanswered: 0,
            answered: 0,
            disproved: 0,
            rest: FIRST_REST,
            forget_at: now,
        }
    }

    /// Length of the longest packet, in bytes, if proven.
    pub(super) fn proven(&self) -> Option<u16> {
        (self.state == State::Proven).then_some(self.longest)
    }

    /// Length of the longest packet that is sent as usual, in bytes.
    pub(super) fn longest_plain(&self) -> usize {
        if self.state == State::Disproved { usize::MAX } else { self.longest.into() }
    }

    /// How to send a packet of `len` bytes.
    pub(super) fn treatment(&self, len: usize) -> Treatment {
        if len <= self.longest_plain() {
            return Treatment::Whole;
        }
        match (self.state, self.phase) {
            (_, Phase::Due) => Treatment::Probe,
            (State::Proven, _) => Treatment::Refused(self.longest),
            // An earlier claim about this path was false, so a new one must not slow it down, as long
            // as its quote can be compared with the probe.
            (_, _) if self.disproved > 0 && !self.is_silent => Treatment::Whole,
            (State::Claimed | State::Disproved, _) => Treatment::InFragments,
        }
    }

    /// Whether an error that comes now may decide about the claim.
    pub(super) fn awaits_answer(&self) -> bool {
        match self.phase {
            Phase::Drain { .. } | Phase::Listen { .. } | Phase::Sent { .. } => true,
            Phase::Rest { .. } | Phase::Due => false,
        }
    }

    /// Whether a probe is due.
    pub(super) fn wants_probe(&self) -> bool {
        self.phase == Phase::Due
    }

    /// Records that a long datagram that begins with `bytes` is sent whole.
    pub(super) fn probe_sent(&mut self, bytes: Quote, now: Instant) {
        self.probes.rotate_right(1);
        self.probes[0] = bytes;
        self.phase = Phase::Sent { deadline: now + ANSWER_TIME };
    }

    /// When [`advance`](Self::advance) must be called.
    pub(super) fn next_event(&self) -> Instant {
        let next = match self.phase {
            Phase::Rest { until } | Phase::Drain { until } | Phase::Listen { until } => until,
            Phase::Sent { deadline } => deadline,
            Phase::Due => self.forget_at,
        };
        if self.state == State::Disproved { self.forget_at } else { next.min(self.forget_at) }
    }

    /// Enters the next phase if it is time. `jitter`, a random byte, makes it hard to guess when a
    /// probe is sent.
    pub(super) fn advance(&mut self, now: Instant, jitter: u8) -> Option<Event> {
        if self.state == State::Disproved {
            return None;
        }
        match self.phase {
            Phase::Rest { until } if until <= now => self.phase = Phase::Due,
            Phase::Drain { until } if until <= now => {
                let until = now + ANSWER_TIME / 4 + ANSWER_TIME * u32::from(jitter) / 128;
                self.phase = Phase::Listen { until };
            }
            Phase::Listen { until } if until <= now => self.phase = Phase::Due,
            Phase::Sent { deadline } if deadline <= now => return self.answer_missing(now),
            Phase::Rest { .. }
            | Phase::Drain { .. }
            | Phase::Listen { .. }
            | Phase::Sent { .. }
            | Phase::Due => {}
        }
        None
    }

    /// The latest probe got no answer in time.
    fn answer_missing(&mut self, now: Instant) -> Option<Event> {
        self.unanswered += 1;
        let num_tries = if self.is_silent { NUM_SILENT_TRIES } else { NUM_TRIES };
        if self.unanswered < num_tries {
            self.phase = self.before_probe(now);
            return None;
        }
        if self.state == State::Proven {
            self.give_up(now);
            self.disproved = 0;
            return Some(Event::Recovered);
        }
        Some(self.disprove(now))
    }

    /// The phase before the next probe of a claim.
    fn before_probe(&self, now: Instant) -> Phase {
        if self.is_silent && self.state == State::Claimed {
            Phase::Drain { until: now + ANSWER_TIME }
        } else {
            Phase::Due
        }
    }
}
