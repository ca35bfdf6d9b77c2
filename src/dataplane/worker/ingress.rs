//! From the peers to the TUN.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::super::icmp::{self, IcmpError, MAX_REPLY_LEN};
use super::{Budget, Lost, Worker, lost_tun};
use crate::dataplane::capture::Direction;
use crate::dataplane::ingress::packet_ref::PacketRef;
use crate::dataplane::ingress::writer::WriteContext;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::may_be_of_another;
use crate::dataplane::io::underlay_flow::UnderlayFlow;
use crate::dataplane::packet::classify;
use crate::dataplane::stats::drop_reason::DropReason;

/// Budget of one turn: receive calls of up to `MAX_BUFFERS` buffers each.
const RECEIVE_CALLS: usize = 4;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Reads the socket: datagrams of peers for this host.
    pub(super) fn ingress(&mut self, now: Instant) -> Result<Budget, Lost> {
        let used = self.receive(now)?;
        if used != Budget::Unused {
            self.count_overflows();
        }
        Ok(used)
    }

    fn receive(&mut self, now: Instant) -> Result<Budget, Lost> {
        let (mut used, mut has_failed) = (Budget::Unused, false);
        for _ in 0..RECEIVE_CALLS {
            match self.udp.recv(&mut self.batch) {
                Ok(num_buffers) => {
                    (used, has_failed) = (Budget::Partial, false);
                    self.stats.ingress.reads.add(1);
                    self.process_batch(num_buffers, now);
                    self.flush()?;
                    if num_buffers < self.batch.num_buffers() {
                        return Ok(Budget::Partial);
                    }
                }
                // ICMP error of an earlier send. Received data is still queued, and edge-triggered
                // epoll will not report it again: keep reading.
                Err(error) if may_be_of_another(&error) => {
                    self.stats.socket_errors.add(1);
                    self.has_errors = true;
                    (used, has_failed) = (Budget::Partial, false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(used),
                // Received data may be queued here too. But this error may be permanent.
                Err(_) => {
                    self.stats.socket_errors.add(1);
                    has_failed = true;
                }
            }
        }
        self.is_failing |= has_failed;
        Ok(if has_failed { used } else { Budget::Exhausted })
    }

    /// Adds what the socket newly counted as dropped because its receive buffer was full.
    fn count_overflows(&mut self) {
        let total = self.udp.num_overflows();
        self.stats.queue_overflows.add(u64::from(total.wrapping_sub(self.overflows)));
        self.overflows = total;
    }

    /// Checks every datagram of the batch and collects the valid ones for writing.
    fn process_batch(&mut self, num_buffers: usize, now: Instant) {
        for buffer in 0..num_buffers {
            let mut start = 0;
            let mut accepted = Accepted::default();
            loop {
                let (bytes, datagram_len) = self.batch.datagrams_mut(buffer);
                let end = (start + datagram_len).min(bytes.len());
                let datagram = &mut bytes[start..end];
                let len = datagram.len();
                match self.filter.check(datagram) {
                    Ok(inner) => {
                        accepted.add(inner.src, len);
                        self.coalescer.push(&self.batch, PacketRef { buffer, start, len }, &inner);
                    }
                    Err(reason) => {
                        self.stats.ingress.drop(reason, 1, datagram, len);
                        if self.tap.is_on() {
                            let packet = &[IoSlice::new(datagram)];
                            self.tap.offer(Direction::Ingress, Some(reason), packet);
                        }
                        if reason == DropReason::TtlExpired {
                            self.answer_peer(PacketRef { buffer, start, len }, now);
                        }
                    }
                }
                start = end;
                if start >= self.batch.buffer(buffer).len() {
                    break;
                }
            }
            self.count_for_peer(&accepted);
        }
    }

    /// Counts what one buffer brought for the peer that owns the sender's subnet. One lookup is
    /// enough: all datagrams in a buffer came from one socket.
    fn count_for_peer(&self, accepted: &Accepted) {
        if let Some(src) = accepted.src
            && let Some(next_hop) = self.routes.table().lookup(src)
        {
            self.stats.ingress.peers.add(*next_hop.addr.ip(), accepted.packets, accepted.bytes);
        }
    }

    /// Sends *time exceeded* to a sender beyond the underlay. The reply goes directly to the peer
    /// that owns the sender's subnet, not through the TUN.
    fn answer_peer(&mut self, at: PacketRef, now: Instant) {
        let packet = at.bytes(&self.batch);
        let Ok(offender) = classify::inner(packet) else { return };
        if !icmp::is_from_network(&offender, self.routes.table().network(), self.filter.subnet) {
            return;
        }
        let Some(next_hop) = self.routes.table().lookup(offender.src) else { return };
        let mut reply = [0; MAX_REPLY_LEN];
        let error = IcmpError::TimeExceeded;
        let Some(len) = error.reply(&offender, packet, self.tun_addr, &mut reply) else { return };
        if self.may_send_icmp(error, now) {
            // ICMP errors are best effort: one that the socket refuses is not retried.
            let flow = UnderlayFlow::shared(next_hop.addr);
            let sent = self.udp.send(flow, None, &[IoSlice::new(&reply[..len])]);
            self.has_errors |= sent.is_err_and(|error| may_be_of_another(&error));
        }
    }

    /// Writes the collected packets to the TUN.
    fn flush(&mut self) -> Result<(), Lost> {
        let items = self.coalescer.items();
        let context = WriteContext { stats: &self.stats.ingress, tap: &self.tap };
        let result = self.writer.write(&self.tun, items, &self.batch, &context);
        self.coalescer.clear();
        result.map_err(lost_tun)
    }
}

/// The accepted packets of one receive buffer.
#[derive(Debug, Default)]
struct Accepted {
    /// Inner source of the last packet.
    src: Option<Ipv4Addr>,
    packets: u64,
    bytes: u64,
}

impl Accepted {
    const fn add(&mut self, src: Ipv4Addr, len: usize) {
        self.src = Some(src);
        self.packets += 1;
        self.bytes += len as u64;
    }
}
