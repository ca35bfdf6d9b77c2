//! [`State`]: the peers by slot, what is attached for them, and what was counted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::config::FastConfig;
use super::counters::FastCounters;
use super::hooks::Hook;
use super::tables::Tables;
use super::traffic::{PeerTraffic, TrafficReader, num_counters, num_processors};
use crate::routes::{KERNEL_RECEIVE, NO_ROUTE};

/// Peers and counters, which outlive the programs: the next ones begin with all that is known.
#[derive(Debug)]
pub(super) struct State {
    /// The peer of each slot, in the words of `routes::direct`.
    pub(super) words: Box<[u64]>,
    /// Slots of which a longer prefix has a part. Only the workers look those up.
    cut: BTreeSet<usize>,
    /// Those of the programs that are attached, or about to be, or not yet detached.
    tables: Option<Tables>,
    pub(super) attached: Option<Attached>,
    /// How often programs were to be detached: those that are loaded meanwhile are out of date.
    pub(super) num_stops: u64,
    /// What earlier programs counted.
    before: FastCounters,
    pub(super) traffic: PeerTraffic,
}

/// Programs at their places.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) config: FastConfig,
    pub(super) hooks: Vec<Hook>,
}

impl State {
    pub(super) fn new(num_slots: usize) -> Self {
        Self {
            words: vec![NO_ROUTE; num_slots].into(),
            cut: BTreeSet::new(),
            tables: None,
            attached: None,
            num_stops: 0,
            before: FastCounters::default(),
            traffic: PeerTraffic::new(num_counters(num_slots, num_processors())),
        }
    }

    /// Gives all peers to programs that are to be attached.
    pub(super) fn begin(&mut self, tables: Tables) {
        for (slot, word) in self.words.iter().enumerate().filter(|(_, word)| **word != NO_ROUTE) {
            tables.peers.store(slot, self.effective(slot, *word));
        }
        self.tables = Some(tables);
    }

    /// Takes over what programs counted that are detached.
    pub(super) fn end(&mut self) {
        let Some(tables) = self.tables.take() else { return };
        self.before.add(&tables.counters());
        self.traffic.keep(&tables.traffic);
    }

    /// What all programs counted.
    pub(super) fn counters(&self) -> FastCounters {
        let mut sum = self.before.clone();
        if let Some(tables) = &self.tables {
            sum.add(&tables.counters());
        }
        sum
    }

    /// Sets the word of a slot. A program sees the old or the new word.
    pub(super) fn set(&mut self, slot: usize, word: u64) {
        let Some(known) = self.words.get_mut(slot) else { return };
        let before = std::mem::replace(known, word);
        if word == NO_ROUTE {
            // Programs lose sight of the peer before another gets its counters.
            self.store(slot);
            self.traffic.end(slot);
            return;
        }
        if before == NO_ROUTE || addr(before) != addr(word) {
            self.traffic.begin(slot, self.tables.as_ref().map(|tables| &tables.traffic));
        }
        self.store(slot);
    }

    pub(super) fn set_cut(&mut self, slot: usize, is_cut: bool) {
        if is_cut {
            self.cut.insert(slot);
        } else {
            self.cut.remove(&slot);
        }
        self.store(slot);
    }

    fn store(&self, slot: usize) {
        if let (Some(tables), Some(&word)) = (&self.tables, self.words.get(slot)) {
            let seen = if word == NO_ROUTE { NO_ROUTE } else { self.effective(slot, word) };
            tables.peers.store(slot, seen);
        }
    }

    /// The word that programs see: all peers have one port, so the number of the peer's counters is in
    /// its place.
    pub(super) fn effective(&self, slot: usize, word: u64) -> u64 {
        let word = word & !(0xffff << 16) | u64::from(self.traffic.number(slot)) << 16;
        if self.cut.contains(&slot) { word & !KERNEL_RECEIVE } else { word }
    }

    /// The peer that has a slot.
    pub(super) fn peer(&self, slot: usize) -> Option<Ipv4Addr> {
        self.words.get(slot).filter(|word| **word != NO_ROUTE).map(|word| addr(*word))
    }

    pub(super) fn reader(&self) -> Option<&TrafficReader> {
        self.tables.as_ref().map(|tables| &tables.traffic)
    }
}

/// The address in a peer's word.
pub(super) fn addr(word: u64) -> Ipv4Addr {
    let [a, b, c, d, ..] = word.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}
