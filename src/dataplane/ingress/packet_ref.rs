//! [`PacketRef`]: where an inner packet is stored.

use crate::dataplane::io::recv_batch::RecvBatch;

/// The position of one inner packet in a [`RecvBatch`].
#[derive(Debug, Clone, Copy)]
pub struct PacketRef {
    /// Index of the buffer.
    pub buffer: usize,
    /// Offset of the first byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl PacketRef {
    /// The packet's bytes.
    #[inline]
    pub fn bytes<'a>(&self, batch: &'a RecvBatch) -> &'a [u8] {
        &batch.buffer(self.buffer)[self.start..self.start + self.len]
    }
}
