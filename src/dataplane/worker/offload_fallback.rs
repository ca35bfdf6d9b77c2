//! Offloads that the kernel refuses while the worker runs: turned off, reported, and tried again.

use std::time::Instant;

use tracing::info;

use super::super::offload::Offload;
use super::Worker;
use crate::dataplane::ingress::writer::SUPERPACKETS;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::offload::backoff::OffloadBackoff;
use crate::dataplane::offload::refusals::Refusals;

/// The backoff of each offload, by `Offload as usize`.
pub(super) type OffloadBackoffs = [OffloadBackoff; Offload::ALL.len()];

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Turns off what was refused in this turn, and turns on again what has waited long enough.
    pub(super) fn update_offloads(&mut self, now: Instant) {
        let refusals = self.sender.take_refusals();
        self.update_offload(Offload::Gso, refusals, now);
        for offload in SUPERPACKETS {
            let refusals = self.writer.take_refusals(offload);
            self.update_offload(offload, refusals, now);
        }
    }

    fn update_offload(&mut self, offload: Offload, refusals: Refusals, now: Instant) {
        if refusals.num > 0 {
            self.stats.offloads.count_fallbacks(offload, refusals.num);
        }
        let backoff = &mut self.backoffs[offload as usize];
        if let Some(errno) = refusals.off {
            backoff.start(now);
            self.stats.offloads.suspend(offload, errno);
            self.switch(offload, false);
        } else if backoff.has_ended(now) {
            info!(offload = offload.name(), "trying again what the kernel refused");
            self.stats.offloads.resume(offload);
            self.switch(offload, true);
        }
    }

    /// Turns `offload` on or off in the stages that use it.
    fn switch(&mut self, offload: Offload, on: bool) {
        self.offloads.set(offload, on);
        match offload {
            Offload::Gso => {
                let (queue, _) = self.encap.pending();
                queue.set_gso(on);
                if on {
                    self.sender.allow_gso();
                }
            }
            Offload::Tso | Offload::Uso | Offload::Gro => {
                self.coalescer.set_offloads(self.offloads);
                if on {
                    self.writer.allow(offload);
                }
            }
        }
    }
}
