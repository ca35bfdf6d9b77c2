//! [`FastPath`]: the peers by slot, and the programs while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::Ipv4Network;

use super::counters::{FastCounters, Traffic};
use super::programs::{FastConfig, FastPathError, Programs, Switch};
use crate::dataplane::io::sys::mmap::MappedWords;
use crate::dataplane::stats::peers::PeerCount;
use crate::routes::publish::{FibError, FibSink, RouteChange};
use crate::routes::{KERNEL_RECEIVE, NO_ROUTE, Prefix, pack};

/// Most slots of the table: 1 Mi slots of 8 bytes are 8 MiB of the kernel's memory. A Network of more
/// subnets has no fast path.
const MAX_SLOT_BITS: u8 = 20;

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
    /// The same by slot, for peers that are there still.
    traffic_before: BTreeMap<u32, Traffic>,
}

#[derive(Debug)]
struct Running {
    programs: Programs,
    peers: MappedWords,
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
            traffic_before: BTreeMap::new(),
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
        let num_stops = self.lock().num_stops;
        let mut programs = Programs::load(config)?;
        let peers = programs.peers()?;
        let mut state = self.lock();
        if state.num_stops != num_stops {
            return Err(FastPathError::Stopped);
        }
        for (slot, word) in state.words.iter().enumerate().filter(|(_, word)| **word != NO_ROUTE) {
            peers.store(slot, state.effective(slot, *word));
        }
        programs.attach()?;
        state.running = Some(Running { programs, peers });
        Ok(())
    }

    /// Detaches the programs, if they run. Must come before either device goes.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.num_stops += 1;
        let Some(mut running) = state.running.take() else { return };
        running.programs.detach();
        state.keep_counts(&running.programs);
    }

    /// Sends nothing more, but goes on taking what arrives.
    pub fn stop_sending(&self) {
        if let Some(running) = &mut self.lock().running {
            running.programs.detach_egress();
        }
    }

    /// Takes superpackets as they arrive from now on, without the vxlan device.
    pub fn bypass_gpe(&self) {
        if let Some(running) = &mut self.lock().running {
            // It was set when the programs were loaded, so it can be set.
            drop(running.programs.turn(Switch::SuperpacketsByGpe, false));
        }
    }

    /// What the running programs know.
    pub fn config(&self) -> Option<FastConfig> {
        self.lock().running.as_ref().map(|running| running.programs.config().clone())
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

    /// What was carried to each peer, and what came from it, by one entry for each subnet.
    pub fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        let state = self.lock();
        let (mut to_peers, mut from_peers) = (Vec::new(), Vec::new());
        for (slot, word) in (0..).zip(&state.words).filter(|(_, word)| **word != NO_ROUTE) {
            let peer = addr(*word);
            let Traffic { to_packets, to_bytes, from_packets, from_bytes } = state.traffic(slot);
            if to_packets > 0 {
                to_peers.push(PeerCount { peer, packets: to_packets, bytes: to_bytes });
            }
            if from_packets > 0 {
                from_peers.push(PeerCount { peer, packets: from_packets, bytes: from_bytes });
            }
        }
        (to_peers, from_peers)
    }

    /// The slot that `subnet` is or is in; `None` if it is larger, or elsewhere.
    fn slot_of(&self, subnet: Ipv4Network) -> Option<usize> {
        let is_inside =
            subnet.prefix() >= self.subnet_len && self.network.contains(subnet.network());
        let offset = subnet.network().to_bits() - self.network.network().to_bits();
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
        self.store(slot);
        if before != NO_ROUTE && addr(before) != addr(word) {
            // The next peer begins at zero.
            let Ok(slot) = u32::try_from(slot) else { return };
            self.traffic_before.remove(&slot);
            if let Some(running) = &mut self.running {
                running.programs.clear_traffic(slot);
            }
        }
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
        if let (Some(running), Some(word)) = (&self.running, self.words.get(slot)) {
            running.peers.store(slot, self.effective(slot, *word));
        }
    }

    /// The word that programs see.
    fn effective(&self, slot: usize, word: u64) -> u64 {
        if self.cut.contains(&slot) { word & !KERNEL_RECEIVE } else { word }
    }

    fn traffic(&self, slot: u32) -> Traffic {
        let mut traffic = self.traffic_before.get(&slot).copied().unwrap_or_default();
        if let Some(running) = &self.running {
            traffic.add(&running.programs.traffic(slot));
        }
        traffic
    }

    /// Takes over what programs counted that are about to go.
    fn keep_counts(&mut self, programs: &Programs) {
        self.before.add(&programs.counters());
        for (slot, _) in (0..).zip(&self.words).filter(|(_, word)| **word != NO_ROUTE) {
            let traffic = programs.traffic(slot);
            if traffic != Traffic::default() {
                self.traffic_before.entry(slot).or_default().add(&traffic);
            }
        }
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
            ("10.1.2.0/24", Some(hop), Some(false)),
            ("10.1.2.0/24", None, None),
        ] {
            sink.apply(&[RouteChange { subnet: subnet.parse().unwrap(), next_hop }]).unwrap();
            let state = path.lock();
            let word = state.effective(2, state.words[2]);
            let found = (word != NO_ROUTE).then_some(word & KERNEL_RECEIVE != 0);
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
