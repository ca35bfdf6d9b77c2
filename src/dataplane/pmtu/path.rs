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
//! A router that quotes the bytes of a probe has seen it: nobody off the path knows them. Of a
//! router that quotes only the UDP header (RFC 792) all there is to go by is the time: nothing may
//! come while nothing long is under way, and something must come after each of three probes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Claim, Event, MIN_UNPROVEN_MTU};
use crate::dataplane::io::underlay_error::Quote;

/// How long an answer to a probe is waited for: longer than nearly all round trips on earth take.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// Probes without an answer after which the path is known to take them: one may be lost otherwise.
const NUM_TRIES: u8 = 3;
/// The same where each takes a pause before and after it.
const NUM_SILENT_TRIES: u8 = 2;
/// Answers that prove a claim where routers quote no byte of a probe.
const NUM_ANSWERS: u8 = 3;
/// How soon a proven path is probed for the first time, and how seldom at last.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);
/// How long a claim waits for a packet to probe with. Without any, the claim does not matter.
const CLAIM_LIFETIME: Duration = Duration::from_secs(10);
/// How long a path is held to be narrow, or claims to be doubted: RFC 1191, section 6.3.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// What becomes of a long packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It leaves as always.
    Whole,
    /// It leaves in a datagram that may be fragmented.
    InFragments,
    /// It leaves whole, to see what comes back.
    Probe,
    /// It is refused if it has DF, with this as the longest packet; else it leaves in fragments.
    Refused(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Claimed,
    Proven,
    Disproved,
}

/// Where the next probe stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// None is due for now.
    Rest { until: Instant },
    /// Answers to earlier datagrams may still come; they say nothing.
    Drain { until: Instant },
    /// Nothing long is under way, so nothing can come but lies.
    Listen { until: Instant },
    /// The next long datagram is one.
    Due,
    /// It was sent.
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
    /// The routers on it quote no byte of a probe.
    is_silent: bool,
    /// First bytes of the last probes.
    probes: [Quote; NUM_TRIES as usize],
    /// Probes in a row without an answer.
    unanswered: u8,
    /// Probes in a row with an answer that quotes none of their bytes.
    answered: u8,
    /// Claims that were disproved, not long ago.
    pub(super) disproved: u8,
    rest: Duration,
    /// When all of this is forgotten.
    pub(super) forget_at: Instant,
}

impl PeerPath {
    /// Nothing is known yet.
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

    /// Length of the longest packet, in bytes, if that is known for sure.
    pub(super) fn proven(&self) -> Option<u16> {
        (self.state == State::Proven).then_some(self.longest)
    }

    /// Length of the longest packet that needs no [treatment](Self::treatment).
    pub(super) fn longest_plain(&self) -> usize {
        if self.state == State::Disproved { usize::MAX } else { self.longest.into() }
    }

    /// What becomes of a packet of `len` bytes.
    pub(super) fn treatment(&self, len: usize) -> Treatment {
        if len <= self.longest_plain() {
            return Treatment::Whole;
        }
        match (self.state, self.phase) {
            (_, Phase::Due) => Treatment::Probe,
            (State::Proven, _) => Treatment::Refused(self.longest),
            // A claim about this path was false not long ago, so the next must not slow it down as
            // long as its quotes can be compared with the probe.
            (_, _) if self.disproved > 0 && !self.is_silent => Treatment::Whole,
            (State::Claimed | State::Disproved, _) => Treatment::InFragments,
        }
    }

    /// Whether what comes back may decide something.
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

    /// A long datagram that begins with `bytes` leaves whole.
    pub(super) fn probe_leaves(&mut self, bytes: Quote, now: Instant) {
        self.probes.rotate_right(1);
        self.probes[0] = bytes;
        self.phase = Phase::Sent { deadline: now + ANSWER_TIME };
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn next_event(&self) -> Instant {
        let next = match self.phase {
            Phase::Rest { until } | Phase::Drain { until } | Phase::Listen { until } => until,
            Phase::Sent { deadline } => deadline,
            Phase::Due => self.forget_at,
        };
        if self.state == State::Disproved { self.forget_at } else { next.min(self.forget_at) }
    }

    /// Goes on to the next phase if it is time. `jitter` makes it hard to guess when a probe
    /// leaves; 256 values, as likely as each other.
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
            Phase::Sent { deadline } if deadline <= now => return self.is_unanswered(now),
            Phase::Rest { .. }
            | Phase::Drain { .. }
            | Phase::Listen { .. }
            | Phase::Sent { .. }
            | Phase::Due => {}
        }
        None
    }

    fn is_unanswered(&mut self, now: Instant) -> Option<Event> {
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

    /// What comes before the next probe of a claim.
    fn before_probe(&self, now: Instant) -> Phase {
        if self.is_silent && self.state == State::Claimed {
            Phase::Drain { until: now + ANSWER_TIME }
        } else {
            Phase::Due
        }
    }

    fn disprove(&mut self, now: Instant) -> Event {
        self.give_up(now);
        if self.disproved == 1 { Event::Disproved } else { Event::Refused }
    }

    fn give_up(&mut self, now: Instant) {
        self.state = State::Disproved;
        self.disproved = self.disproved.saturating_add(1);
        let doubt = Duration::from_secs(4 << self.disproved.min(7));
        self.phase = Phase::Rest { until: now + doubt.min(LIFETIME) };
        self.forget_at = now + LIFETIME;
        (self.unanswered, self.answered) = (0, 0);
    }

    /// Takes in that this host itself, or an ICMP, says that the path takes no more than `longest`.
    pub(super) fn hear(&mut self, claim: &Claim, longest: u16, now: Instant) -> Option<Event> {
        if claim.is_local || self.probes.iter().any(|probe| claim.quote.proves(probe)) {
            return self.prove(longest, false, now);
        }
        if !claim.quote.is_full() {
            return self.hear_silent(longest, now);
        }
        // Bytes of another datagram than the probe: a reason to send one, no more.
        match self.state {
            State::Proven => None,
            State::Claimed => {
                if self.is_silent {
                    self.claim(longest, false, now);
                }
                None
            }
            State::Disproved => {
                self.claim(longest, false, now);
                Some(Event::Claimed)
            }
        }
    }

    /// Takes in a claim that quotes no byte of what was sent.
    fn hear_silent(&mut self, longest: u16, now: Instant) -> Option<Event> {
        if longest < MIN_UNPROVEN_MTU {
            return Some(Event::Refused);
        }
        match (self.state, self.phase) {
            (State::Disproved, Phase::Rest { until }) if until > now => Some(Event::Refused),
            (State::Disproved, _) => {
                self.claim(longest, true, now);
                Some(Event::Claimed)
            }
            // Its routers quote more.
            (State::Claimed | State::Proven, _) if !self.is_silent => Some(Event::Refused),
            (State::Claimed, Phase::Listen { .. } | Phase::Due) => Some(self.disprove(now)),
            (State::Claimed, Phase::Sent { .. }) => {
                self.answered += 1;
                self.unanswered = 0;
                if self.answered >= NUM_ANSWERS {
                    return self.prove(longest, true, now);
                }
                self.longest = longest;
                self.phase = self.before_probe(now);
                None
            }
            (State::Proven, Phase::Sent { .. }) => self.prove(longest, true, now),
            (State::Claimed | State::Proven, _) => None,
        }
    }

    fn claim(&mut self, longest: u16, is_silent: bool, now: Instant) {
        self.state = State::Claimed;
        (self.longest, self.is_silent) = (longest, is_silent);
        (self.unanswered, self.answered) = (0, 0);
        self.phase = self.before_probe(now);
        self.forget_at = now + if self.disproved > 0 { LIFETIME } else { CLAIM_LIFETIME };
    }

    fn prove(&mut self, longest: u16, is_silent: bool, now: Instant) -> Option<Event> {
        let before = self.proven();
        self.rest = match before {
            Some(before) if before == longest => (self.rest * 2).min(LONGEST_REST),
            Some(_) | None => FIRST_REST,
        };
        self.state = State::Proven;
        (self.longest, self.is_silent) = (longest, is_silent);
        (self.unanswered, self.answered, self.disproved) = (0, 0, 0);
        self.phase = Phase::Rest { until: now + self.rest };
        self.forget_at = now + LIFETIME;
        match before {
            Some(before) if before == longest => None,
            Some(before) if before < longest => Some(Event::Widened(longest)),
            Some(_) | None => Some(Event::Narrowed(longest)),
        }
    }
}
