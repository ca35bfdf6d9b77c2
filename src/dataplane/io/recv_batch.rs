//! [`RecvBatch`]: the buffers of one receive call.

use super::cmsg::RecvControl;
use crate::dataplane::packet::headers::MAX_PACKET_LEN;

/// Most buffers that one call receives. Enough that the cost of the call itself does not matter, few
/// enough that a batch of full buffers fits a 1 MiB second-level cache.
pub const MAX_BUFFERS: usize = 8;

/// Distance between two buffers: room for the largest UDP payload, and an odd number of cache
/// lines, so that the first bytes of all buffers do not fall into one set of the cache.
const STRIDE: usize = MAX_PACKET_LEN.next_multiple_of(64) + 3 * 64;

/// Up to [`MAX_BUFFERS`] received buffers. Each holds one datagram, or with `UDP_GRO` several
/// datagrams of equal length, of which the last may be shorter.
#[derive(Debug)]
pub struct RecvBatch {
    /// `STRIDE` bytes for each buffer that a call may fill.
    bytes: Box<[u8]>,
    lens: [usize; MAX_BUFFERS],
    gro_sizes: [Option<usize>; MAX_BUFFERS],
    controls: [RecvControl; MAX_BUFFERS],
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new(MAX_BUFFERS)
    }
}

impl RecvBatch {
    /// Room for `num_buffers` buffers a call, at most [`MAX_BUFFERS`].
    pub fn new(num_buffers: usize) -> Self {
        Self {
            bytes: vec![0; STRIDE * num_buffers.clamp(1, MAX_BUFFERS)].into_boxed_slice(),
            lens: [0; MAX_BUFFERS],
            gro_sizes: [None; MAX_BUFFERS],
            controls: [RecvControl::EMPTY; MAX_BUFFERS],
        }
    }

    /// How many buffers one call may fill.
    pub fn num_buffers(&self) -> usize {
        self.bytes.len() / STRIDE
    }

    /// The whole room of every buffer, and every control message buffer, for the receive call.
    pub(crate) fn room(&mut self) -> (std::slice::ChunksExactMut<'_, u8>, &mut [RecvControl]) {
        (self.bytes.chunks_exact_mut(STRIDE), &mut self.controls)
    }

    /// Records that buffer `index` received `len` bytes and `control_len` of control messages.
    pub(super) fn set_received(&mut self, index: usize, len: usize, control_len: usize) {
        let gro_size = self.controls[index].gro_size(control_len);
        self.set(index, len, gro_size);
    }

    /// Records what buffer `index` received.
    pub(crate) fn set(&mut self, index: usize, len: usize, gro_size: Option<usize>) {
        self.lens[index] = len.min(STRIDE);
        self.gro_sizes[index] = gro_size;
    }

    /// The bytes received into buffer `index`.
    #[inline]
    pub fn buffer(&self, index: usize) -> &[u8] {
        let start = index * STRIDE;
        &self.bytes[start..start + self.lens[index]]
    }

    /// The bytes received into buffer `index`, and the length of each datagram in them.
    #[inline]
    pub fn datagrams_mut(&mut self, index: usize) -> (&mut [u8], usize) {
        let len = self.lens[index];
        let start = index * STRIDE;
        (&mut self.bytes[start..start + len], self.gro_sizes[index].unwrap_or(len).max(1))
    }
}
