//! What a claim, or its disproof, changes about a path.

use std::time::{Duration, Instant};

use super::super::{Claim, Event, MIN_UNPROVEN_MTU};
use super::{
    CLAIM_LIFETIME, FIRST_REST, LIFETIME, LONGEST_REST, NUM_ANSWERS, PeerPath, Phase, State,
};

impl PeerPath {
    /// Handles a claim, by this host itself or by an ICMP, that packets of more than `longest` bytes
    /// do not fit the path.
    pub(in super::super) fn handle_claim(
        &mut self,
        claim: &Claim,
        longest: u16,
        now: Instant,
    ) -> Option<Event> {
        if claim.is_local || self.probes.iter().any(|probe| claim.quote.proves(probe)) {
            return self.prove(longest, false, now);
        }
        if !claim.quote.is_full() {
            return self.handle_silent_claim(longest, now);
        }
        // The quote is of another datagram than the probe. This only triggers a probe.
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

    /// Handles a claim of a silent router, which quotes no byte of what was sent.
    fn handle_silent_claim(&mut self, longest: u16, now: Instant) -> Option<Event> {
        if longest < MIN_UNPROVEN_MTU {
            return Some(Event::Refused);
        }
        match (self.state, self.phase) {
            (State::Disproved, Phase::Rest { until }) if until > now => Some(Event::Refused),
            (State::Disproved, _) => {
                self.claim(longest, true, now);
                Some(Event::Claimed)
            }
            // The routers of this path quote more than this claim does.
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

    pub(super) fn disprove(&mut self, now: Instant) -> Event {
        self.give_up(now);
        if self.disproved == 1 { Event::Disproved } else { Event::Refused }
    }

    pub(super) fn give_up(&mut self, now: Instant) {
        self.state = State::Disproved;
        self.disproved = self.disproved.saturating_add(1);
        let doubt = Duration::from_secs(4 << self.disproved.min(7));
        self.phase = Phase::Rest { until: now + doubt.min(LIFETIME) };
        self.forget_at = now + LIFETIME;
        (self.unanswered, self.answered) = (0, 0);
    }
}
