//! Offloads that the kernel refuses while the worker runs: given up, shown, and tried again.

use std::time::Instant;

use tracing::info;

use super::super::offload::Offload;
use super::Worker;
use crate::dataplane::egress::sender::Refusals;
use crate::dataplane::ingress::writer::SUPERPACKETS;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::offload::backoff::Fallback;

/// The waits of every offload, by its number.
pub(super) type Fallbacks = [Fallback; Offload::ALL.len()];

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Gives up what was refused in this turn, and tries again what was refused long ago.
    pub(super) fn mind_offloads(&mut self, now: Instant) {
        let refusals = self.sender.take_refusals();
        self.mind(Offload::Gso, refusals, now);
        for offload in SUPERPACKETS {
            let refusals = self.writer.take_refusals(offload);
            self.mind(offload, refusals, now);
        }
    }

    fn mind(&mut self, offload: Offload, refusals: Refusals, now: Instant) {
        if refusals.num > 0 {
            self.stats.offloads.count_fallbacks(offload, refusals.num);
        }
        let fallback = &mut self.fallbacks[offload as usize];
        if let Some(errno) = refusals.off {
            fallback.begin(now);
            self.stats.offloads.suspend(offload, errno);
            self.switch(offload, false);
        } else if fallback.is_over(now) {
            info!(offload = offload.name(), "trying again what the kernel refused");
            self.stats.offloads.resume(offload);
            self.switch(offload, true);
        }
    }

    /// Makes, sends and writes no more of `offload`, or does so again.
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
