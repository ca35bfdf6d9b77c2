//! [`FastPathSink`]: the routes to the peers become the words of their slots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use super::path::FastPath;
use crate::dataplane::stats::peers::PeerCount;
use crate::routes::publish::{FibError, FibSink, RouteChange};
use crate::routes::{NO_ROUTE, Prefix, pack};

/// Takes the routes to the peers over.
#[derive(Debug)]
pub struct FastPathSink {
    path: Arc<FastPath>,
    /// Prefixes that are longer than a slot's.
    longer: BTreeSet<Ipv4Network>,
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
        let subnet_len = self.path.subnet_len();
        for &RouteChange { subnet, next_hop } in changes {
            let Some(slot) = self.path.slot_of(subnet) else { continue };
            if subnet.prefix() == subnet_len {
                self.path.lock().set(slot, next_hop.map_or(NO_ROUTE, pack));
                continue;
            }
            match next_hop {
                Some(_) => self.longer.insert(subnet),
                None => self.longer.remove(&subnet),
            };
            let whole = Ipv4Network::containing(subnet.network(), subnet_len);
            let is_cut = whole.is_ok_and(|whole| self.is_cut(whole));
            self.path.lock().set_cut(slot, is_cut);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{KERNEL_RECEIVE, KernelReceive, NextHop};

    #[test]
    fn slot_has_its_peer_and_no_kernel_peer_where_a_longer_prefix_wins() {
        let path = Arc::new(FastPath::new("10.1.0.0/16".parse().unwrap(), 24));
        let mut sink = FastPathSink::new(Arc::clone(&path));
        let hop = NextHop::new("192.0.2.1:8285".parse().unwrap());
        let fast = Some(NextHop { kernel_receive: KernelReceive::All, ..hop });
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
}
