//! Coalesced packets → the TUN, and what to do when the kernel refuses one.

use std::io::{self, IoSlice};

use tracing::warn;

use super::coalesce::{MAX_PIECES, Outgoing, PacketAt, Scratch, gather_plain};
use super::drop_reason::DropReason;
use super::recv_batch::RecvBatch;
use super::stats::DirectionStats;
use super::tun::{TunQueue, is_gone};

/// Writes packets to the TUN, falling back from superpackets where the kernel refuses them.
#[derive(Debug)]
pub struct Writer {
    superpackets: bool,
}

impl Writer {
    /// A writer that takes superpackets if `superpackets`, until one is refused.
    pub const fn new(superpackets: bool) -> Self {
        Self { superpackets }
    }

    /// Whether superpackets may still be written.
    pub const fn superpackets(&self) -> bool {
        self.superpackets
    }

    /// Writes `items`, counting each packet as written or dropped.
    ///
    /// # Errors
    /// What the kernel said when the device is gone.
    pub fn write(
        &mut self,
        tun: &impl TunQueue,
        items: &[Outgoing],
        batch: &RecvBatch,
        stats: &DirectionStats,
    ) -> io::Result<()> {
        for item in items {
            let mut scratch = Scratch::default();
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let pieces = item.gather(batch, &mut scratch, &mut slices);
            let is_superpacket = item.segments().len() > 1;
            match tun.write(pieces) {
                Err(error) if is_superpacket && error.raw_os_error() == Some(libc::EINVAL) => {
                    if self.superpackets {
                        warn!(%error, "TUN refuses superpackets: one packet at a time from now on");
                    }
                    self.superpackets = false;
                    write_singly(tun, item.segments(), batch, stats)?;
                }
                result => count(result, item.segments(), stats)?,
            }
        }
        Ok(())
    }
}

/// Writes the packets of a refused superpacket as they came.
fn write_singly(
    tun: &impl TunQueue,
    segments: &[PacketAt],
    batch: &RecvBatch,
    stats: &DirectionStats,
) -> io::Result<()> {
    for at in segments {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let result = tun.write(gather_plain(at.bytes(batch), &mut slices));
        count(result, std::slice::from_ref(at), stats)?;
    }
    Ok(())
}

/// Counts the packets of one write by its result, which is an error only if the device is gone.
fn count(result: io::Result<()>, packets: &[PacketAt], stats: &DirectionStats) -> io::Result<()> {
    match result {
        Ok(()) => {
            stats.packets.add(packets.len() as u64);
            stats.bytes.add(packets.iter().map(|at| at.len as u64).sum());
            stats.writes.add(1);
            Ok(())
        }
        Err(error) if is_gone(&error) => Err(error),
        Err(_) => {
            stats.drop(DropReason::TunRefused, packets.len() as u64);
            Ok(())
        }
    }
}
