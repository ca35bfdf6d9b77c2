//! [`SendContext`]: what became of datagrams is counted here, and captured.

use std::io::IoSlice;
use std::ops::Range;

use crate::dataplane::capture::{Direction, Tap};
use crate::dataplane::egress::gso_batch::{GsoBatch, MAX_PIECES};
use crate::dataplane::stats::direction::DirectionStats;
use crate::dataplane::stats::drop_reason::DropReason;

/// What a send needs apart from its batches.
#[derive(Debug, Clone, Copy)]
pub struct SendContext<'a> {
    /// What the pieces of the batches refer to.
    pub arena: &'a [u8],
    /// Where datagrams are counted.
    pub stats: &'a DirectionStats,
    /// Where they are captured.
    pub tap: &'a Tap,
}

impl SendContext<'_> {
    /// Counts one send call that carried the datagrams in `range`, of `len` bytes together.
    #[inline]
    pub(super) fn sent(&self, batch: &GsoBatch, range: Range<usize>, len: usize) {
        let (num, len) = (range.len() as u64, len as u64);
        self.stats.packets.add(num);
        self.stats.bytes.add(len);
        self.stats.peers.add(*batch.flow.dst.ip(), num, len);
        self.stats.writes.add(1);
        if self.tap.is_on() {
            self.capture(batch, range, None);
        }
    }

    /// Counts the datagrams in `range`, which are dropped for `reason`.
    pub(super) fn dropped(&self, batch: &GsoBatch, range: Range<usize>, reason: DropReason) {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let first = batch.gather(range.start..range.start + 1, self.arena, &mut slices);
        let head: &[u8] = first.first().map_or(&[], |piece| piece);
        let len = first.iter().map(|piece| piece.len()).sum();
        self.stats.drop(reason, range.len() as u64, head, len);
        if self.tap.is_on() {
            self.capture(batch, range, Some(reason));
        }
    }

    #[cold]
    fn capture(&self, batch: &GsoBatch, range: Range<usize>, reason: Option<DropReason>) {
        for index in range {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let pieces = batch.gather(index..index + 1, self.arena, &mut slices);
            self.tap.offer(Direction::Egress, reason, pieces);
        }
    }
}
