//! [`DirectArray`]: the routes whose subnets all have one length, changed in place.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ipnetwork::Ipv4Network;

use super::{KernelReceive, NextHop};

/// Most slots of the array, as a power of 2: 4 Mi slots of 8 bytes are 32 MiB. A Network that needs
/// more (for example a /8 cut into /31s) uses only longest-prefix match.
const MAX_SLOT_BITS: u32 = 22;

/// Slot → next hop, for an overlay whose network is cut into subnets of one length.
///
/// A next hop fits one machine word, so one writer can change a route while any number of readers
/// look it up: no lock, no second copy, and nothing to free. A reader sees the old or the new next
/// hop of a slot, never a mixture. The order of changes to different slots is not guaranteed, and
/// nothing needs it.
#[derive(Debug)]
pub(super) struct DirectArray {
    network: Ipv4Network,
    subnet_len: u8,
    /// First address of the network, in host order.
    base: u32,
    /// 32 - `subnet_len`: the slot is `dst - base`, shifted right by this.
    shift: u32,
    /// Packed next hops: see [`pack`].
    slots: Box<[AtomicU64]>,
    num_routes: AtomicUsize,
}

impl DirectArray {
    /// No routes yet. The kernel allocates memory page by page when slots are first used.
    pub(super) fn new(network: Ipv4Network, subnet_len: u8) -> Self {
        let slot_bits = u32::from(subnet_len.saturating_sub(network.prefix()));
        let fits = subnet_len <= 32 && slot_bits <= MAX_SLOT_BITS;
        let num_slots = if fits { 1 << slot_bits } else { 0 };
        Self {
            network,
            subnet_len,
            base: network.network().to_bits(),
            shift: 32 - u32::from(subnet_len.min(32)),
            slots: bytemuck::zeroed_slice_box(num_slots),
            num_routes: AtomicUsize::new(0),
        }
    }

    /// The range that is cut into slots.
    pub(crate) const fn network(&self) -> Ipv4Network {
        self.network
    }

    /// Whether routes to `subnet` have a slot here.
    pub(super) fn holds(&self, subnet: Ipv4Network) -> bool {
        !self.slots.is_empty()
            && subnet.prefix() == self.subnet_len
            && self.network.contains(subnet.network())
    }

    /// Sets or removes the route to a `subnet` that the array [`holds`](Self::holds).
    pub(super) fn set(&self, subnet: Ipv4Network, next_hop: Option<NextHop>) {
        let Some(slot) = self.slots.get(self.slot_of(subnet.network())) else { return };
        // Relaxed is enough: a slot's word publishes no other memory.
        let before = slot.swap(next_hop.map_or(NO_ROUTE, pack), Ordering::Relaxed);
        match (before, next_hop) {
            (NO_ROUTE, Some(_)) => self.num_routes.fetch_add(1, Ordering::Relaxed),
            (NO_ROUTE, None) | (_, Some(_)) => 0,
            (_, None) => self.num_routes.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// The next hop of the subnet that holds `dst`.
    #[inline]
    pub(super) fn lookup(&self, dst: Ipv4Addr) -> Option<NextHop> {
        unpack(self.slots.get(self.slot_of(dst))?.load(Ordering::Relaxed))
    }

    /// The next hops of all routes.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = NextHop> {
        self.slots.iter().filter_map(|slot| unpack(slot.load(Ordering::Relaxed)))
    }

    /// How many routes there are.
    pub(super) fn len(&self) -> usize {
        self.num_routes.load(Ordering::Relaxed)
    }

    /// An index past the end if `dst` is outside the network.
    #[inline]
    fn slot_of(&self, dst: Ipv4Addr) -> usize {
        let offset = dst.to_bits().wrapping_sub(self.base);
        // With SubnetLen 0 the shift is 32 bits, and there is only slot 0.
        offset.checked_shr(self.shift).unwrap_or(0) as usize
    }
}

/// The word of a slot without a route: no packed next hop is zero.
pub const NO_ROUTE: u64 = 0;
const PRESENT: u64 = 1;
const ANY_SOURCE_PORT: u64 = 2;
const KERNEL_BULK_TCP: u64 = 4;
const KERNEL_SPARSE: u64 = 8;
/// What the word of a peer says that its kernel takes.
pub const KERNEL_RECEIVE: u64 = KERNEL_BULK_TCP | KERNEL_SPARSE;

/// Address in bits 63 to 32, port in bits 31 to 16, flags in the lowest.
///
/// The BPF programs read the same words: `dataplane/fast_path/bpf/tables.h`.
pub fn pack(next_hop: NextHop) -> u64 {
    let NextHop { addr, any_source_port, kernel_receive } = next_hop;
    let kernel_receive = match kernel_receive {
        KernelReceive::Nothing => 0,
        KernelReceive::Sparse => KERNEL_SPARSE,
        KernelReceive::All => KERNEL_BULK_TCP | KERNEL_SPARSE,
    };
    let flags = PRESENT | if any_source_port { ANY_SOURCE_PORT } else { 0 } | kernel_receive;
    u64::from(addr.ip().to_bits()) << 32 | u64::from(addr.port()) << 16 | flags
}

#[inline]
fn unpack(word: u64) -> Option<NextHop> {
    #[expect(clippy::cast_possible_truncation, reason = "each field's own bits are taken")]
    let (ip, port) = (Ipv4Addr::from_bits((word >> 32) as u32), (word >> 16) as u16);
    let any_source_port = word & ANY_SOURCE_PORT != 0;
    let kernel_receive = match word & KERNEL_RECEIVE {
        0 => KernelReceive::Nothing,
        KERNEL_SPARSE => KernelReceive::Sparse,
        _ => KernelReceive::All,
    };
    let next_hop = NextHop { addr: SocketAddrV4::new(ip, port), any_source_port, kernel_receive };
    (word & PRESENT != 0).then_some(next_hop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_next_hop_comes_back(ip in any::<u32>(), port in any::<u16>(), any_source_port in any::<bool>()) {
            let addr = SocketAddrV4::new(Ipv4Addr::from_bits(ip), port);
            for kernel_receive in [KernelReceive::Nothing, KernelReceive::Sparse, KernelReceive::All] {
                let next_hop = NextHop { addr, any_source_port, kernel_receive };
                prop_assert_eq!(unpack(pack(next_hop)), Some(next_hop));
            }
        }
    }

    #[test]
    fn routes_are_counted_once() {
        let array = DirectArray::new("10.1.0.0/16".parse().unwrap(), 24);
        let subnet = "10.1.2.0/24".parse().unwrap();
        let hop = |text: &str| Some(NextHop::new(text.parse().unwrap()));
        for (next_hop, num) in [
            (None, 0),
            (hop("192.0.2.1:8285"), 1),
            (hop("192.0.2.2:8285"), 1),
            (None, 0),
            (None, 0),
            (hop("0.0.0.0:0"), 1),
        ] {
            array.set(subnet, next_hop);
            assert_eq!(array.len(), num, "{next_hop:?}");
            assert_eq!(array.lookup(subnet.broadcast()), next_hop);
        }
    }
}
