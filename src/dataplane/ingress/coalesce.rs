//! Segments of one flow → superpacket. Ingress, last stage before the TUN. No I/O, no copy of
//! payload: a superpacket is one new header and ranges of the received buffers.
//!
//! Packets are written in the order in which the first segment of each came, so the packets of a
//! flow never overtake each other. Merging follows the kernel's GRO (`net/ipv4/tcp_offload.c`):
//! packets are merged only if splitting the superpacket again gives exactly these packets. There
//! is one difference: PSH does not end a superpacket, it is set in the superpacket's header.

use super::candidate::Candidate;
use super::gro_item::GroItem;
use super::packet_ref::PacketRef;
use crate::dataplane::io::recv_batch::RecvBatch;
use crate::dataplane::offload::Offloads;
use crate::dataplane::packet::classify::Inner;
use crate::dataplane::packet::flow;

/// Slots of the table that finds a flow's open superpacket. If two flows share a slot, fewer
/// packets are merged, but their order stays right.
const NUM_SLOTS: usize = 256;
const NO_ITEM: u16 = u16::MAX;

/// Collects the packets of one receive call.
#[derive(Debug)]
pub struct Coalescer {
    items: Vec<GroItem>,
    /// How many of `items` are in use; the others are kept for their memory.
    num_items: usize,
    slots: [u16; NUM_SLOTS],
    offloads: Offloads,
}

impl Coalescer {
    /// An empty collection that merges TCP if `offloads.tso`, UDP if `offloads.uso`.
    pub fn new(offloads: Offloads) -> Self {
        Self { items: Vec::new(), num_items: 0, slots: [NO_ITEM; NUM_SLOTS], offloads }
    }

    /// Changes which packets are merged from now on.
    pub fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    /// What is to be written, in order.
    pub fn items(&self) -> &[GroItem] {
        &self.items[..self.num_items]
    }

    /// Removes all items, for the next receive call.
    pub fn clear(&mut self) {
        self.num_items = 0;
        self.slots.fill(NO_ITEM);
    }

    /// Adds the packet at `at`, which `inner` describes.
    #[inline]
    pub fn push(&mut self, batch: &RecvBatch, at: PacketRef, inner: &Inner) {
        let packet = at.bytes(batch);
        if inner.is_fragment {
            // A non-first fragment has no ports, so its flow is unknown: close all open
            // superpackets to keep order.
            self.slots.fill(NO_ITEM);
            self.open(at, None);
            return;
        }
        let slot = slot_of(packet, inner);
        let candidate = Candidate::new(packet, inner, self.offloads);
        if let Some(candidate) = candidate
            && let Some(item) = self.items.get_mut(usize::from(self.slots[slot]))
            && item.append(batch, at, packet, candidate)
        {
            return;
        }
        let index = self.open(at, candidate);
        // A packet that cannot be merged closes its flow's superpacket, to keep order in the flow.
        self.slots[slot] = if candidate.is_some() { index } else { NO_ITEM };
    }

    /// Starts a new item with the packet at `at`; returns its index.
    fn open(&mut self, at: PacketRef, candidate: Option<Candidate>) -> u16 {
        if self.num_items == self.items.len() {
            self.items.push(GroItem::default());
        }
        self.items[self.num_items].start(at, candidate);
        self.num_items += 1;
        u16::try_from(self.num_items - 1).unwrap_or(NO_ITEM)
    }
}

/// The slot of the packet's flow.
#[inline]
fn slot_of(packet: &[u8], inner: &Inner) -> usize {
    usize::from(flow::hash(packet, inner).to_be_bytes()[0])
}

#[cfg(test)]
mod tests;
