//! [`FastPath`]: the peers by slot, and the programs while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::Ipv4Network;

use super::counters::{FastCounters, Traffic};
use super::hooks::Hook;
use super::programs::{FastConfig, FastPathError, Programs, Switch};
use super::traffic::{PeerTraffic, TrafficReader, num_counters, num_processors};
use crate::dataplane::io::sys::mmap::MappedWords;
use crate::dataplane::stats::peers::PeerCount;
use crate::routes::publish::{FibError, FibSink, RouteChange};
use crate::routes::{KERNEL_RECEIVE, NO_ROUTE, Prefix, pack};

/// Most slots of the table: 1 Mi slots of 8 bytes are 8 MiB of the kernel's memory. A Network of more
/// subnets has no fast path.
const MAX_SLOT_BITS: u8 = 20;

/// The same as a number.
pub const MAX_SLOTS: usize = 1 << MAX_SLOT_BITS;

/// Peers and counters, which outlive the programs: the next ones begin with all that is known.
#[derive(Debug)]
pub struct FastPath {
    network: Ipv4Network,
    subnet_len: u8,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The peer of each slot, in the words of `routes::direct`.
    words: Box<[u64]>,
    /// Slots of which a longer prefix has a part. Only the workers look those up.
    cut: BTreeSet<usize>,
    running: Option<Running>,
    /// How often programs were detached: those that are loaded meanwhile are out of date.
    num_stops: u64,
    /// What earlier programs counted.
    before: FastCounters,
    traffic: PeerTraffic,
}

#[derive(Debug)]
struct Running {
    programs: Programs,
    peers: MappedWords,
    traffic: TrafficReader,
}

/// Takes the routes to the peers over.
#[derive(Debug)]
pub struct FastPathSink {
    path: Arc<FastPath>,
    /// Prefixes that are longer than a slot's.
    longer: BTreeSet<Ipv4Network>,
}

impl FastPath {
    /// Without peers, for an overlay whose `network` is cut into subnets of `subnet_len` bits.
    pub fn new(network: Ipv4Network, subnet_len: u8) -> Self {
        let slot_bits = subnet_len.saturating_sub(network.prefix());
        let num_slots = if slot_bits <= MAX_SLOT_BITS { 1_usize << slot_bits } else { 0 };
        let state = State {
            words: vec![NO_ROUTE; num_slots].into(),
            cut: BTreeSet::new(),
            running: None,
            num_stops: 0,
            before: FastCounters::default(),
            traffic: PeerTraffic::new(num_counters(num_slots, num_processors())),
        };
        Self { network, subnet_len, state: Mutex::new(state) }
    }

    /// How many subnets the overlay has; 0 if they are too many.
    pub fn num_slots(&self) -> usize {
        self.lock().words.len()
    }

    /// Loads the programs, gives them all peers, and attaches them: those for what arrives first.
    /// Blocks for as long as the kernel verifies them; who reads counters or changes peers does not
    /// wait for that.
    ///
    /// # Errors
    /// [`FastPathError`]; nothing is attached then.
    pub fn start(&self, config: FastConfig) -> Result<(), FastPathError> {
        self.stop();
        let (num_stops, num_counters) = {
            let state = self.lock();
            (state.num_stops, state.traffic.num_counters())
        };
        let mut programs = Programs::load(config, num_counters)?;
        let (peers, traffic) = (programs.peers()?, programs.traffic()?);
        let mut state = self.lock();
        if state.num_stops != num_stops {
            return Err(FastPathError::Stopped);
        }
        for (slot, word) in state.words.iter().enumerate().filter(|(_, word)| **word != NO_ROUTE) {
            peers.store(slot, state.effective(slot, *word));
        }
        programs.attach()?;
        state.running = Some(Running { programs, peers, traffic });
        Ok(())
    }

    /// Detaches the programs, if they run. Must come before either device goes.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.num_stops += 1;
        let Some(mut running) = state.running.take() else { return };
        running.programs.detach();
        state.before.add(&running.programs.counters());
        state.traffic.keep(&running.traffic);
    }

    /// Sends nothing more, but goes on taking what arrives.
    pub fn stop_sending(&self) {
        if let Some(running) = &mut self.lock().running {
            running.programs.detach_egress();
        }
    }

    /// Takes packets as they arrive from now on, without the vxlan device.
    pub fn bypass_gpe(&self) {
        if let Some(running) = &mut self.lock().running {
            // It was set when the programs were loaded, so it can be set.
            drop(running.programs.turn(Switch::ByGpe, false));
        }
    }

    /// What the running programs know.
    pub fn config(&self) -> Option<FastConfig> {
        self.lock().running.as_ref().map(|running| running.programs.config().clone())
    }

    /// Where the running programs are attached.
    pub fn hooks(&self) -> Vec<Hook> {
        let state = self.lock();
        state.running.as_ref().map_or_else(Vec::new, |it| it.programs.hooks().to_vec())
    }

    /// A device that somebody else took a program from, as far as that is known.
    pub fn lost_hook(&self) -> Option<Hook> {
        self.lock().running.as_ref()?.programs.lost_hook().cloned()
    }

    /// What all programs counted.
    pub fn counters(&self) -> FastCounters {
        let state = self.lock();
        let mut sum = state.before.clone();
        if let Some(running) = &state.running {
            sum.add(&running.programs.counters());
        }
        sum
    }

    /// What was carried to each peer, and what came from it, by one entry for each subnet. 0.0.0.0 are
    /// all peers without counters of their own.
    pub fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        let state = self.lock();
        let (mut to_peers, mut from_peers) = (Vec::new(), Vec::new());
        let mut add = |peer, traffic: Traffic| {
            let Traffic { to_packets, to_bytes, from_packets, from_bytes } = traffic;
            if to_packets > 0 {
                to_peers.push(PeerCount { peer, packets: to_packets, bytes: to_bytes });
            }
            if from_packets > 0 {
                from_peers.push(PeerCount { peer, packets: from_packets, bytes: from_bytes });
            }
        };
        for (slot, traffic) in state.traffic.of_peers(state.reader()) {
            add(addr(state.words[slot]), traffic);
        }
        add(Ipv4Addr::UNSPECIFIED, state.traffic.of_others(state.reader()));
        (to_peers, from_peers)
    }

    /// The slot that `subnet` is or is in; `None` if it is larger, or elsewhere.
    fn slot_of(&self, subnet: Ipv4Network) -> Option<usize> {
        let is_inside =
            subnet.prefix() >= self.subnet_len && self.network.contains(subnet.network());
        let offset = subnet.network().to_bits().wrapping_sub(self.network.network().to_bits());
        let shift = 32 - u32::from(self.subnet_len.min(32));
        // A shift of 32, where SubnetLen is 0, leaves the only slot.
        is_inside.then(|| offset.checked_shr(shift).unwrap_or(0) as usize)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FastPathSink {
    /// Gives the routes to `path`.
    pub const fn new(path: Arc<FastPath>) -> Self {
        Self { path, longer: BTreeSet::new() }
    }

    /// Packets that the kernel carried to each peer, and from it.
    pub fn carried(&self) -> BTreeMap<Ipv4Addr, [u64; 2]> {
        let (to_peers, from_peers) = self.path.peer_counts();
        let mut carried = BTreeMap::<_, [u64; 2]>::new();
        for (way, counts) in [to_peers, from_peers].into_iter().enumerate() {
            for PeerCount { peer, packets, .. } in counts {
                carried.entry(peer).or_default()[way] += packets;
            }
        }
        carried
    }

    /// Packets that came from peers without counters of their own.
    pub fn received_from_others(&self) -> u64 {
        let state = self.path.lock();
        state.traffic.of_others(state.reader()).from_packets
    }

    /// All packets that the kernel carried, both ways.
    pub fn total(&self) -> u64 {
        let counters = self.path.counters();
        counters.egress.packets + counters.ingress.packets
    }

    fn is_cut(&self, whole: Ipv4Network) -> bool {
        let last = Ipv4Network::containing(whole.broadcast(), 32).unwrap_or(whole);
        self.longer.range(whole..=last).next().is_some()
    }
}

impl FibSink for FastPathSink {
    /// Makes all changes, in order; never fails. A change costs one store.
    fn apply(&mut self, changes: &[RouteChange]) -> Result<(), FibError> {
        for &RouteChange { subnet, next_hop } in changes {
            let Some(slot) = self.path.slot_of(subnet) else { continue };
            if subnet.prefix() == self.path.subnet_len {
                self.path.lock().set(slot, next_hop.map_or(NO_ROUTE, pack));
                continue;
            }
            match next_hop {
                Some(_) => self.longer.insert(subnet),
                None => self.longer.remove(&subnet),
            };
            let whole = Ipv4Network::containing(subnet.network(), self.path.subnet_len);
            let is_cut = whole.is_ok_and(|whole| self.is_cut(whole));
            self.path.lock().set_cut(slot, is_cut);
        }
        Ok(())
    }
}

impl State {
    /// Sets the word of a slot. A program sees the old or the new word.
    fn set(&mut self, slot: usize, word: u64) {
        let Some(known) = self.words.get_mut(slot) else { return };
        let before = std::mem::replace(known, word);
        if word == NO_ROUTE {
            // Programs lose sight of the peer before another gets its counters.
            self.store(slot);
            self.traffic.end(slot);
            return;
        }
        if before == NO_ROUTE || addr(before) != addr(word) {
            self.traffic.begin(slot, self.running.as_ref().map(|running| &running.traffic));
        }
        self.store(slot);
    }

    fn set_cut(&mut self, slot: usize, is_cut: bool) {
        if is_cut {
            self.cut.insert(slot);
        } else {
            self.cut.remove(&slot);
        }
        self.store(slot);
    }

    fn store(&self, slot: usize) {
        if let (Some(running), Some(&word)) = (&self.running, self.words.get(slot)) {
            let seen = if word == NO_ROUTE { NO_ROUTE } else { self.effective(slot, word) };
            running.peers.store(slot, seen);
        }
    }

    /// The word that programs see: all peers have one port, so the number of the peer's counters is in
    /// its place.
    fn effective(&self, slot: usize, word: u64) -> u64 {
        let word = word & !(0xffff << 16) | u64::from(self.traffic.number(slot)) << 16;
        if self.cut.contains(&slot) { word & !KERNEL_RECEIVE } else { word }
    }

    fn reader(&self) -> Option<&TrafficReader> {
        self.running.as_ref().map(|running| &running.traffic)
    }
}

/// The address in a peer's word.
fn addr(word: u64) -> Ipv4Addr {
    let [a, b, c, d, ..] = word.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::NextHop;

    #[test]
    fn slot_has_its_peer_and_no_kernel_peer_where_a_longer_prefix_wins() {
        let path = Arc::new(FastPath::new("10.1.0.0/16".parse().unwrap(), 24));
        let mut sink = FastPathSink::new(Arc::clone(&path));
        let hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
        let fast = Some(NextHop { kernel_receive: true, ..hop });
        for (subnet, next_hop, is_kernel) in [
            ("10.1.2.0/24", fast, Some(true)),
            ("10.1.2.128/25", Some(hop), Some(false)),
            ("10.1.2.7/32", Some(hop), Some(false)),
            ("10.1.2.128/25", None, Some(false)),
            ("10.1.2.0/24", fast, Some(false)),
            ("10.1.2.7/32", None, Some(true)),
            ("10.1.0.0/16", Some(hop), Some(true)),
            ("10.9.2.0/24", fast, Some(true)),
            ("10.0.2.0/24", fast, Some(true)),
            ("10.1.2.0/24", Some(hop), Some(false)),
            ("10.1.2.0/24", None, None),
        ] {
            sink.apply(&[RouteChange { subnet: subnet.parse().unwrap(), next_hop }]).unwrap();
            let state = path.lock();
            let word = state.words[2];
            let is_fast = state.effective(2, word) & KERNEL_RECEIVE != 0;
            let found = (word != NO_ROUTE).then_some(is_fast);
            assert_eq!(found, is_kernel, "{subnet}");
            let others = (0..256).filter(|slot| *slot != 2 && state.words[*slot] != NO_ROUTE);
            assert_eq!(others.count(), 0, "{subnet}");
        }
    }

    #[test]
    fn network_of_too_many_subnets_has_no_slots() {
        let num_slots = |network: &str, subnet_len| {
            FastPath::new(network.parse().unwrap(), subnet_len).num_slots()
        };
        assert_eq!(num_slots("10.0.0.0/8", 24), 65_536);
        assert_eq!(num_slots("10.0.0.0/8", 28), 1 << 20);
        assert_eq!(num_slots("10.0.0.0/8", 29), 0);
    }
}
