//! [`SendQueue`]: datagrams that wait to be sent, packed into batches. Egress; no I/O.
//!
//! Batches of one [`UnderlayFlow`] leave in the order in which they were opened, and only the newest
//! of them takes more datagrams. So packets of one underlay flow never overtake each other.

use std::ops::Range;

use super::gso_batch::GsoBatch;
use crate::dataplane::io::udp::MAX_GSO_SEGMENTS;
use crate::dataplane::io::underlay_flow::UnderlayFlow;

/// The batches that wait to be sent, oldest first.
#[derive(Debug)]
pub struct SendQueue {
    batches: Vec<GsoBatch>,
    /// Empty batches, kept for their memory.
    spare: Vec<GsoBatch>,
    /// Datagrams per batch: `max_segments`, or 1 without GSO.
    max_datagrams: usize,
    max_segments: usize,
    /// Length of the longest datagram that may share a batch, in bytes. The kernel refuses to cut
    /// a batch into datagrams that need fragmentation.
    max_shared_len: usize,
}

impl SendQueue {
    /// An empty queue; without `gso` every batch holds one datagram.
    pub fn new(gso: bool) -> Self {
        let mut queue = Self {
            batches: Vec::new(),
            spare: Vec::new(),
            max_datagrams: 1,
            max_segments: MAX_GSO_SEGMENTS,
            max_shared_len: usize::MAX,
        };
        queue.set_gso(gso);
        queue
    }

    /// Packs at most `max_segments` datagrams into a batch from now on.
    pub fn limit_segments(&mut self, max_segments: usize) {
        self.max_segments = max_segments.clamp(1, MAX_GSO_SEGMENTS);
        self.set_gso(self.max_datagrams > 1);
    }

    /// Gives each datagram of more than `longest` bytes a batch of its own from now on.
    pub const fn limit_length(&mut self, longest: usize) {
        self.max_shared_len = longest;
    }

    /// Packs many datagrams into a batch from now on, or one.
    pub fn set_gso(&mut self, gso: bool) {
        self.max_datagrams = if gso { self.max_segments } else { 1 };
    }

    /// Adds a datagram to `flow`: `headers`, which are copied, then `body`, a range of the arena.
    /// Returns whether its batch is full, so that waiting for more gains nothing.
    #[inline]
    pub fn push(&mut self, flow: UnderlayFlow, headers: &[u8], body: Range<usize>) -> bool {
        let datagram_len = headers.len() + body.len();
        let shares = datagram_len <= self.max_shared_len;
        let max_datagrams = if shares { self.max_datagrams } else { 1 };
        let batch = self.open(flow, datagram_len);
        batch.push(headers, body, max_datagrams);
        batch.is_sealed
    }

    /// Adds a datagram that is too long for its path: it gets a batch of its own and is sent in
    /// fragments.
    pub fn push_in_fragments(&mut self, flow: UnderlayFlow, headers: &[u8], body: Range<usize>) {
        if let Some(newest) = self.batches.iter_mut().rfind(|batch| batch.flow == flow) {
            newest.is_sealed = true;
        }
        self.open(flow, headers.len() + body.len()).push_in_fragments(headers, body);
    }

    /// The batch for the next datagram of `flow`: its newest, or a new one.
    #[inline]
    fn open(&mut self, flow: UnderlayFlow, datagram_len: usize) -> &mut GsoBatch {
        let newest = self.batches.iter().rposition(|batch| batch.flow == flow);
        let index = match newest {
            Some(index) if self.batches[index].accepts(datagram_len) => index,
            Some(_) | None => {
                let mut batch = self.spare.pop().unwrap_or_else(GsoBatch::new);
                batch.reset(flow, datagram_len);
                self.batches.push(batch);
                self.batches.len() - 1
            }
        };
        &mut self.batches[index]
    }

    /// The batches, oldest first.
    pub fn batches(&self) -> &[GsoBatch] {
        &self.batches
    }

    /// Removes the oldest `num` batches: they are sent, or dropped.
    pub fn release(&mut self, num: usize) {
        self.spare.extend(self.batches.drain(..num));
    }
}

#[cfg(test)]
mod tests;
