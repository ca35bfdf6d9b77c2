//! [`Heard`]: when each peer was last heard, and which peers are silent: docs/adr/0028. Pure state.
//!
//! No worker reads a clock for this. Once a second the counters of each peer are compared with those
//! of the last time: what has grown was heard within that second.
//!
//! A peer to which packets go and from which none come may have nothing to say, because the traffic
//! is one-way. So an echo request goes to its overlay address before it is called silent.

mod echo;
mod words;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::echo::Echo;
pub(super) use self::words::{PeerName, log, problem, warning};
use crate::dataplane::stats::peer_error::{PeerError, PeerErrorKind};

/// Time between two comparisons.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// After this time without an answer a peer is asked for one.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// After this time without an answer it is silent.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Time between two requests to a peer that does not answer, and to one in trouble.
const ASK_PERIOD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// Requests without an answer before a peer is silent: one packet may be lost.
const MIN_ASKED: u32 = 2;

/// Most peers asked in one tick: so many small packets a second load no network.
const MAX_ASKED: usize = 256;

/// Troubles of one peer that are logged before it must be without trouble for [`CALM`].
const MAX_LOGGED: u32 = 3;

/// After this time without trouble a peer's next ones are logged again.
const CALM: Duration = Duration::from_secs(600);

/// What is known of each peer, by public IP.
#[derive(Debug, Default)]
pub(super) struct Heard {
    peers: HashMap<Ipv4Addr, Peer>,
    /// Packets from peers that have no counters of their own.
    from_others: u64,
    total: u64,
    /// Peers that are waited for, or in trouble.
    num_open: usize,
}

#[derive(Debug, Default)]
struct Peer {
    sent: u64,
    received: u64,
    heard_at: Option<Instant>,
    waiting: Option<Waiting>,
    trouble: Option<Trouble>,
    asked_at: Option<Instant>,
    num_logged: u32,
    troubled_at: Option<Instant>,
}

/// Packets go to a peer, and none have come from it since.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    /// Packets sent before.
    sent_before: u64,
    num_asked: u32,
}

/// What is wrong with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: TroubleKind,
    /// When it began.
    pub(super) since: Instant,
    /// Whether its end is to be logged: its beginning was.
    is_logged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TroubleKind {
    /// This many packets were sent within this time, and none came.
    Silent { num_sent: u64, within: Duration },
    /// An error says why datagrams do not arrive.
    Error(PeerErrorKind, Option<Ipv4Addr>),
}

/// What happened in a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A peer got into trouble; whether to log it.
    Trouble(Ipv4Addr, TroubleKind, bool),
    /// A peer in trouble was heard, after this time; whether to log it.
    HeardAgain(Ipv4Addr, Duration, bool),
    /// Ask this peer for an answer.
    Ask(Ipv4Addr),
}

/// The counters of one tick.
#[derive(Debug)]
pub(super) struct Reading<C> {
    pub(super) now: Instant,
    /// Packets sent to a peer and received from it.
    pub(super) carried: C,
    /// Packets received from peers that have no counters of their own.
    pub(super) from_others: u64,
    /// All packets, both ways.
    pub(super) total: u64,
}

impl Heard {
    /// Compares the counters of `peers` with those of the last tick. `errors` are those since then.
    pub(super) fn tick(
        &mut self,
        reading: &Reading<impl Fn(Ipv4Addr) -> [u64; 2]>,
        peers: impl Iterator<Item = Ipv4Addr>,
        errors: &[PeerError],
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let is_same = std::mem::replace(&mut self.total, reading.total) == reading.total;
        if is_same && self.num_open == 0 && errors.is_empty() {
            return events;
        }
        self.num_open = 0;
        // One of the packets counted together may have been of any peer.
        let is_certain =
            std::mem::replace(&mut self.from_others, reading.from_others) == reading.from_others;
        let mut to_ask = Vec::new();
        for addr in peers {
            let peer = self.peers.entry(addr).or_default();
            let is_heard = peer.compare((reading.carried)(addr), is_certain, reading.now);
            if is_heard && let Some(trouble) = peer.trouble.take() {
                let after = reading.now - trouble.since;
                events.push(Event::HeardAgain(addr, after, trouble.is_logged));
            }
            // Of a peer that was heard just now, an ICMP is forged or out of date.
            let is_about = |error: &&PeerError| !is_heard && *error.to.ip() == addr;
            if !errors.is_empty()
                && let Some(error) = errors.iter().rfind(is_about)
            {
                let kind = TroubleKind::Error(error.kind, error.reporter);
                events.extend(peer.get_into(kind, reading.now, addr));
            }
            if let Some(kind) = peer.silence(reading.now) {
                events.extend(peer.get_into(kind, reading.now, addr));
            }
            self.num_open += usize::from(peer.waiting.is_some() || peer.trouble.is_some());
            if peer.is_to_be_asked(reading.now) {
                to_ask.push((peer.trouble.is_some(), peer.asked_at, addr));
            }
        }
        // First those of which we do not know yet, then those that were asked longest ago.
        to_ask.sort_unstable();
        for (_, _, addr) in to_ask.into_iter().take(MAX_ASKED) {
            if let Some(peer) = self.peers.get_mut(&addr) {
                peer.asked(reading.now);
                events.push(Event::Ask(addr));
            }
        }
        events
    }

    /// Forgets the peers for which `stays` returns false.
    pub(super) fn keep(&mut self, stays: impl Fn(Ipv4Addr) -> bool) {
        self.peers.retain(|addr, _| stays(*addr));
    }

    /// When a peer was heard last.
    pub(super) fn last_heard(&self, addr: Ipv4Addr) -> Option<Instant> {
        self.peers.get(&addr)?.heard_at
    }

    /// What is wrong with a peer.
    pub(super) fn trouble(&self, addr: Ipv4Addr) -> Option<Trouble> {
        self.peers.get(&addr)?.trouble
    }

    /// The peers in trouble, in no order.
    pub(super) fn troubled(&self) -> impl Iterator<Item = (Ipv4Addr, Trouble)> {
        self.peers.iter().filter_map(|(addr, peer)| Some((*addr, peer.trouble?)))
    }
}

impl Peer {
    /// Takes over the counters; returns whether the peer was heard.
    fn compare(&mut self, [sent, received]: [u64; 2], is_certain: bool, now: Instant) -> bool {
        // Counters that are less than before restarted at zero.
        let has_grown = |before: u64, now: u64| now != before && now > 0;
        let is_heard = has_grown(self.received, received);
        let sent_before = if sent < self.sent { 0 } else { self.sent };
        if is_heard {
            (self.heard_at, self.waiting) = (Some(now), None);
        } else if !is_certain {
            self.waiting = None;
        } else if has_grown(self.sent, sent) {
            self.waiting.get_or_insert(Waiting { since: now, sent_before, num_asked: 0 });
        }
        (self.sent, self.received) = (sent, received);
        is_heard
    }

    /// Whether it has become silent.
    fn silence(&self, now: Instant) -> Option<TroubleKind> {
        let waiting = self.waiting.filter(|_| self.trouble.is_none())?;
        let within = now - waiting.since;
        let num_sent = self.sent.saturating_sub(waiting.sent_before);
        let is_silent = within >= SILENT_AFTER && waiting.num_asked >= MIN_ASKED;
        is_silent.then_some(TroubleKind::Silent { num_sent, within })
    }

    fn is_to_be_asked(&self, now: Instant) -> bool {
        let has_passed = |period| self.asked_at.is_none_or(|asked: Instant| now - asked >= period);
        match (self.trouble, self.waiting) {
            (Some(_), _) => has_passed(ASK_PERIOD.1),
            (None, Some(waiting)) => now - waiting.since >= ASK_AFTER && has_passed(ASK_PERIOD.0),
            (None, None) => false,
        }
    }

    fn asked(&mut self, now: Instant) {
        self.asked_at = Some(now);
        if let Some(waiting) = &mut self.waiting {
            waiting.num_asked += 1;
        }
    }

    /// Gets into trouble, or into another kind of it.
    fn get_into(&mut self, kind: TroubleKind, now: Instant, addr: Ipv4Addr) -> Option<Event> {
        if let Some(trouble) = &mut self.trouble {
            let is_new = trouble.kind != kind;
            trouble.kind = kind;
            // Of one trouble only the first kind is logged: a router and a host may take turns.
            return is_new.then_some(Event::Trouble(addr, kind, false));
        }
        if self.troubled_at.is_none_or(|last| now - last >= CALM) {
            self.num_logged = 0;
        }
        let is_logged = self.num_logged < MAX_LOGGED;
        self.num_logged += u32::from(is_logged);
        self.troubled_at = Some(now);
        self.trouble = Some(Trouble { kind, since: now, is_logged });
        Some(Event::Trouble(addr, kind, is_logged))
    }
}

#[cfg(test)]
mod tests;
