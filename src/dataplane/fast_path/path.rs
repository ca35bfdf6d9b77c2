//! [`FastPath`]: the programs while they run, for peers and counters that outlive them.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnetwork::Ipv4Network;

use super::config::FastConfig;
use super::counters::{FastCounters, Traffic};
use super::error::FastPathError;
use super::hooks::{self, Hook};
use super::programs::{CONSTANTS, Programs, Switch};
use super::state::{Attached, State};
use crate::dataplane::stats::peers::PeerCount;

/// Most slots of the table: 1 Mi slots of 8 bytes are 8 MiB of the kernel's memory. A Network of more
/// subnets has no fast path.
const MAX_SLOT_BITS: u8 = 20;

/// The same as a number.
pub const MAX_SLOTS: usize = 1 << MAX_SLOT_BITS;

/// The kernel's short cut for the packets of one overlay.
#[derive(Debug)]
pub struct FastPath {
    network: Ipv4Network,
    subnet_len: u8,
    /// Who attaches or detaches them holds this: that may take seconds, as a network card may be reset
    /// for XDP. Locked before `state`, which nobody holds for long.
    programs: Mutex<Option<Programs>>,
    state: Mutex<State>,
}

impl FastPath {
    /// Without peers, for an overlay whose `network` is cut into subnets of `subnet_len` bits.
    pub fn new(network: Ipv4Network, subnet_len: u8) -> Self {
        let slot_bits = subnet_len.saturating_sub(network.prefix());
        let num_slots = if slot_bits <= MAX_SLOT_BITS { 1_usize << slot_bits } else { 0 };
        let (programs, state) = (Mutex::new(None), Mutex::new(State::new(num_slots)));
        Self { network, subnet_len, programs, state }
    }

    /// How many subnets the overlay has; 0 if they are too many.
    pub fn num_slots(&self) -> usize {
        self.lock().words.len()
    }

    pub(super) const fn subnet_len(&self) -> u8 {
        self.subnet_len
    }

    /// Loads the programs, gives them all peers, and attaches them: those for what arrives first.
    /// Blocks for as long as the kernel verifies them and the drivers take them. Who reads counters or
    /// changes peers does not wait for that; who stops them waits until they are attached.
    ///
    /// # Errors
    /// [`FastPathError`]; nothing is attached then.
    pub fn start(&self, config: FastConfig) -> Result<(), FastPathError> {
        self.stop();
        let (num_stops, num_counters) = {
            let state = self.lock();
            (state.num_stops, state.traffic.num_counters())
        };
        let (loaded, tables) = Programs::load(config, num_counters, CONSTANTS)?;
        let mut current = self.programs();
        {
            let mut state = self.lock();
            if state.num_stops != num_stops {
                return Err(FastPathError::Stopped);
            }
            state.begin(tables);
        }
        let programs = current.insert(loaded);
        if let Err(error) = programs.attach() {
            self.end(&mut current);
            return Err(error);
        }
        let (config, hooks) = (programs.config().clone(), programs.hooks().to_vec());
        self.lock().attached = Some(Attached { config, hooks });
        Ok(())
    }

    /// Detaches the programs, if they run. Must come before either device goes. Blocks like
    /// [`start`](Self::start).
    pub fn stop(&self) {
        self.lock().num_stops += 1;
        self.end(&mut self.programs());
    }

    fn end(&self, programs: &mut Option<Programs>) {
        let Some(mut ending) = programs.take() else { return };
        self.lock().attached = None;
        ending.detach();
        self.lock().end();
    }

    /// Sends nothing more, but goes on taking what arrives.
    pub fn stop_sending(&self) {
        if let Some(programs) = &mut *self.programs() {
            programs.detach_egress();
            if let Some(attached) = &mut self.lock().attached {
                attached.hooks = programs.hooks().to_vec();
            }
        }
    }

    /// Takes packets as they arrive from now on, without the vxlan device.
    pub fn bypass_gpe(&self) {
        if let Some(programs) = &mut *self.programs() {
            // It was set when the programs were loaded, so it can be set.
            drop(programs.turn(Switch::ByGpe, false));
        }
    }

    /// What the programs know, while they are attached.
    pub fn config(&self) -> Option<FastConfig> {
        self.lock().attached.as_ref().map(|attached| attached.config.clone())
    }

    /// Where they are attached.
    pub fn hooks(&self) -> Vec<Hook> {
        self.lock().attached.as_ref().map_or_else(Vec::new, |attached| attached.hooks.clone())
    }

    /// A device that somebody else took a program from whose link shows that. Filters are the kernel's
    /// to list.
    pub fn lost_link(&self) -> Option<Hook> {
        let hooks = self.hooks();
        // Without /proc nothing is known.
        let links = hooks::links().ok().filter(|_| !hooks.is_empty())?;
        hooks.into_iter().find(|hook| !hook.has_link(&links))
    }

    /// What all programs counted.
    pub fn counters(&self) -> FastCounters {
        self.lock().counters()
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
            add(state.peer(slot).unwrap_or(Ipv4Addr::UNSPECIFIED), traffic);
        }
        add(Ipv4Addr::UNSPECIFIED, state.traffic.of_others(state.reader()));
        (to_peers, from_peers)
    }

    /// The slot that `subnet` is or is in; `None` if it is larger, or elsewhere.
    pub(super) fn slot_of(&self, subnet: Ipv4Network) -> Option<usize> {
        let is_inside =
            subnet.prefix() >= self.subnet_len && self.network.contains(subnet.network());
        let offset = subnet.network().to_bits().wrapping_sub(self.network.network().to_bits());
        let shift = 32 - u32::from(self.subnet_len.min(32));
        // A shift of 32, where SubnetLen is 0, leaves the only slot.
        is_inside.then(|| offset.checked_shr(shift).unwrap_or(0) as usize)
    }

    /// The peer that has the subnet of this address.
    pub(super) fn peer_of(&self, addr: Ipv4Addr) -> Option<Ipv4Addr> {
        let slot = self.slot_of(addr.into())?;
        self.lock().peer(slot)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn programs(&self) -> MutexGuard<'_, Option<Programs>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::dataplane::fast_path::sink::FastPathSink;
    use crate::routes::NextHop;
    use crate::routes::publish::{FibSink, RouteChange};

    #[test]
    fn nobody_waits_for_a_driver_to_read_counters_or_to_change_peers() {
        let path = Arc::new(FastPath::new("10.1.0.0/16".parse().unwrap(), 24));
        let mut sink = FastPathSink::new(Arc::clone(&path));
        let (done, is_done) = mpsc::channel();
        let attaching = path.programs();
        let others = Arc::clone(&path);
        let work = move || {
            let subnet = "10.1.2.0/24".parse().unwrap();
            let next_hop = Some(NextHop::new("192.0.2.1:8285".parse().unwrap()));
            sink.apply(&[RouteChange { subnet, next_hop }]).unwrap();
            assert_eq!((others.hooks(), others.lost_link()), (vec![], None));
            assert_eq!(others.counters(), FastCounters::default());
            assert_eq!((others.config(), others.peer_counts()), (None, (vec![], vec![])));
            done.send(others.peer_of([10, 1, 2, 3].into())).unwrap();
        };
        let worker = thread::spawn(work);
        let peer = is_done.recv_timeout(Duration::from_secs(15)).unwrap();
        assert_eq!(peer, Some([192, 0, 2, 1].into()));
        drop(attaching);
        worker.join().unwrap();
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
