//! From the TUN to the peers.

use std::io::{self, IoSlice};
use std::time::Instant;

use super::super::icmp::{self, IcmpError, MAX_REPLY_LEN};
use super::{Budget, Lost, Worker, lost_tun};
use crate::dataplane::capture::Direction;
use crate::dataplane::egress::sender::SendContext;
use crate::dataplane::io::tun::{TunQueue, is_gone};
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::packet::vnet_hdr::VnetHdr;
use crate::dataplane::stats::drop_reason::DropReason;

/// Budget of one turn: packets or superpackets read from the TUN.
const READS: usize = 64;

/// Failed reads in a row after which a turn gives up. epoll is edge-triggered, so one error is no
/// reason to stop reading: what is ready would not be reported again. But a permanent error must
/// not keep the worker busy.
const MAX_FAILURES: usize = 8;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Reads the TUN: packets of this host for peers.
    pub(super) fn egress(&mut self, now: Instant) -> Result<Budget, Lost> {
        if self.is_blocked && !self.send_pending() {
            return Ok(Budget::Unused);
        }
        let mut num_taken = 0;
        let used = self.read_tun(now, &mut num_taken);
        if num_taken > 0 {
            self.stats.egress.reads.add(num_taken);
        }
        used
    }

    /// Reads until nothing is left, the budget is used up or the socket is full. Adds to `num_taken`
    /// how many reads brought a packet.
    fn read_tun(&mut self, now: Instant, num_taken: &mut u64) -> Result<Budget, Lost> {
        let mut num_failures = 0;
        let used = |num_taken: &u64| if *num_taken == 0 { Budget::Unused } else { Budget::Partial };
        for _ in 0..READS {
            let Some(room) = self.encap.room() else {
                if self.send_pending() {
                    continue;
                }
                return Ok(Budget::Partial);
            };
            match self.tun.read(room) {
                Ok((header, len)) => {
                    (*num_taken, num_failures) = (*num_taken + 1, 0);
                    self.forward(&header, len, now);
                    if self.is_blocked {
                        return Ok(Budget::Partial);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.stats.egress.drop(DropReason::BadSuperpacket, 1, &[], 0);
                    (*num_taken, num_failures) = (*num_taken + 1, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.send_pending();
                    return Ok(used(num_taken));
                }
                Err(error) if is_gone(&error) => return Err(lost_tun(error)),
                Err(_) => {
                    self.stats.tun_errors.add(1);
                    num_failures += 1;
                    if num_failures == MAX_FAILURES {
                        self.is_failing = true;
                        self.send_pending();
                        return Ok(used(num_taken));
                    }
                }
            }
        }
        Ok(if self.send_pending() { Budget::Exhausted } else { Budget::Partial })
    }

    fn forward(&mut self, header: &VnetHdr, len: usize, now: Instant) {
        let result = self.encap.forward(header, len, self.routes.table(), self.paths.current());
        if let Some((peer, first_bytes)) = self.encap.take_probe()
            && self.paths.claim_probe(peer, first_bytes)
        {
            self.stats.pmtu_probes.add(1);
        }
        match result {
            Ok(true) => {
                self.send_pending();
            }
            Ok(false) => {}
            Err(DropReason::NotIpv4) if self.encap.is_link_scope_ipv6(len) => {
                self.stats.ignored_ipv6.add(1);
            }
            Err(reason) => {
                let packet = self.encap.refused_bytes(len);
                self.stats.egress.drop(reason, 1, packet, len);
                if self.tap.is_on() {
                    self.tap.offer(Direction::Egress, Some(reason), &[IoSlice::new(packet)]);
                }
                if let Some(error) = IcmpError::for_drop(reason, self.encap.path_mtu()) {
                    self.answer_local(error, header, len, now);
                }
            }
        }
    }

    /// Sends all waiting batches; returns false if the socket's send buffer is full.
    fn send_pending(&mut self) -> bool {
        let (queue, arena) = self.encap.pending();
        let context = SendContext { arena, stats: &self.stats.egress, tap: &self.tap };
        let num_done = self.sender.send(&self.udp, queue.batches(), &context);
        self.is_blocked = num_done < queue.batches().len();
        queue.release(num_done);
        self.encap.reclaim();
        !self.is_blocked
    }

    /// Sends an ICMP error to a sender on this side of the TUN, whose packet was just refused.
    fn answer_local(&mut self, error: IcmpError, header: &VnetHdr, len: usize, now: Instant) {
        let Some(offender) = self.encap.refused(header, len, &mut self.quote) else { return };
        if !icmp::is_from_network(&offender, self.routes.table().network(), self.filter.subnet) {
            return;
        }
        let mut reply = [0; MAX_REPLY_LEN];
        let Some(len) = error.reply(&offender, &self.quote, self.tun_addr, &mut reply) else {
            return;
        };
        if self.may_send_icmp(error, now) {
            // ICMP errors are best effort: one that the kernel refuses is not retried.
            drop(self.tun.inject_local(&reply[..len]));
        }
    }
}
