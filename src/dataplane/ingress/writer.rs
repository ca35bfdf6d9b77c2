//! Packets and superpackets → the TUN, and what to do when the kernel refuses one.

use std::io::{self, IoSlice};

use tracing::warn;

use super::gro_item::{GroItem, MAX_PIECES, Scratch, gather_plain};
use super::packet_ref::PacketRef;
use crate::dataplane::capture::{Direction, Tap};
use crate::dataplane::io::recv_batch::RecvBatch;
use crate::dataplane::io::tun::{TunQueue, is_gone};
use crate::dataplane::offload::refusals::Refusals;
use crate::dataplane::offload::{Offload, Offloads};
use crate::dataplane::stats::direction::DirectionStats;
use crate::dataplane::stats::drop_reason::DropReason;

/// Writes packets to the TUN, falling back from superpackets where the kernel refuses them.
#[derive(Debug)]
pub struct Writer {
    offloads: Offloads,
    /// Refusals of TCP superpackets, then of UDP superpackets.
    refusals: [Refusals; SUPERPACKETS.len()],
}

/// Where the packets of a write are counted and captured.
#[derive(Debug, Clone, Copy)]
pub struct WriteContext<'a> {
    /// Where they are counted.
    pub stats: &'a DirectionStats,
    /// Where they are captured.
    pub tap: &'a Tap,
}

/// The offloads that a write may need.
pub const SUPERPACKETS: [Offload; 2] = [Offload::Tso, Offload::Uso];

impl Writer {
    /// A writer of those superpackets that `offloads` allows.
    pub fn new(offloads: Offloads) -> Self {
        Self { offloads, refusals: Default::default() }
    }

    /// Writes superpackets of `offload` from now on, until one is refused.
    pub const fn allow(&mut self, offload: Offload) {
        self.offloads.set(offload, true);
    }

    /// The refusals of `offload` since the last call.
    pub fn take_refusals(&mut self, offload: Offload) -> Refusals {
        std::mem::take(self.refusals_of(offload))
    }

    fn refusals_of(&mut self, offload: Offload) -> &mut Refusals {
        let [tso, uso] = &mut self.refusals;
        if offload == Offload::Uso { uso } else { tso }
    }

    /// Writes `items`, counting each packet as written or dropped.
    ///
    /// # Errors
    /// What the kernel said when the device no longer exists.
    pub fn write(
        &mut self,
        tun: &impl TunQueue,
        items: &[GroItem],
        batch: &RecvBatch,
        context: &WriteContext<'_>,
    ) -> io::Result<()> {
        for item in items {
            let superpacket = item.offload();
            if superpacket.is_some_and(|offload| !self.offloads.has(offload)) {
                write_singly(tun, item.segments(), batch, context)?;
                continue;
            }
            let mut scratch = Scratch::default();
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let pieces = item.gather(batch, &mut scratch, &mut slices);
            match (tun.write(pieces), superpacket) {
                (Err(error), Some(offload)) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.refuse(offload, &error);
                    write_singly(tun, item.segments(), batch, context)?;
                }
                (result, _) => context.count(result, item.segments(), batch)?,
            }
        }
        Ok(())
    }

    fn refuse(&mut self, offload: Offload, error: &io::Error) {
        warn!(%error, offload = offload.name(), "TUN refuses superpackets: none for a while");
        self.offloads.set(offload, false);
        let refusals = self.refusals_of(offload);
        *refusals = Refusals { num: refusals.num + 1, off: error.raw_os_error() };
    }
}

/// Writes the packets of a refused superpacket one by one.
fn write_singly(
    tun: &impl TunQueue,
    segments: &[PacketRef],
    batch: &RecvBatch,
    context: &WriteContext<'_>,
) -> io::Result<()> {
    for at in segments {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let result = tun.write(gather_plain(at.bytes(batch), &mut slices));
        context.count(result, std::slice::from_ref(at), batch)?;
    }
    Ok(())
}

impl WriteContext<'_> {
    /// Counts the packets of one write by its result. Returns the error only if the device no longer
    /// exists.
    fn count(
        &self,
        result: io::Result<()>,
        packets: &[PacketRef],
        batch: &RecvBatch,
    ) -> io::Result<()> {
        let num = packets.len() as u64;
        let reason = match result {
            Ok(()) => {
                self.stats.packets.add(num);
                self.stats.bytes.add(packets.iter().map(|at| at.len as u64).sum());
                self.stats.writes.add(1);
                None
            }
            Err(error) if is_gone(&error) => return Err(error),
            Err(_) => {
                let (head, len) =
                    packets.first().map_or((&[][..], 0), |at| (at.bytes(batch), at.len));
                self.stats.drop(DropReason::TunRefused, num, head, len);
                Some(DropReason::TunRefused)
            }
        };
        if self.tap.is_on() {
            for at in packets {
                self.tap.offer(Direction::Ingress, reason, &[IoSlice::new(at.bytes(batch))]);
            }
        }
        Ok(())
    }
}
