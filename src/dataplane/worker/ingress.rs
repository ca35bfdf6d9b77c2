//! From the peers to the TUN.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::super::icmp::{self, IcmpError, MAX_REPLY_LEN};
use super::{Lost, Turn, Worker, lost_tun};
use crate::dataplane::egress::gso_batch::Path;
use crate::dataplane::ingress::coalesce::PacketAt;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::may_be_of_another;
use crate::dataplane::packet::classify;
use crate::dataplane::stats::drop_reason::DropReason;

/// Most receive calls in one turn, of up to `MAX_BUFFERS` buffers each.
const RECEIVE_CALLS: usize = 4;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Takes what the socket has: datagrams of peers, bound for this host.
    pub(super) fn ingress(&mut self, now: Instant) -> Result<Turn, Lost> {
        let (mut turn, mut has_failed) = (Turn::Idle, false);
        for _ in 0..RECEIVE_CALLS {
            match self.udp.recv(&mut self.batch) {
                Ok(num_buffers) => {
                    (turn, has_failed) = (Turn::Done, false);
                    self.count_overflows();
                    self.take_in(num_buffers, now);
                    self.write_out()?;
                    if num_buffers < self.batch.num_buffers() {
                        return Ok(Turn::Done);
                    }
                }
                // Of a datagram sent earlier: what has arrived is still there, unannounced.
                Err(error) if may_be_of_another(&error) => {
                    self.stats.socket_errors.add(1);
                    self.has_errors = true;
                    (turn, has_failed) = (Turn::Done, false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(turn),
                // Nor is this a reason to leave alone what has arrived; but it may go on.
                Err(_) => {
                    self.stats.socket_errors.add(1);
                    has_failed = true;
                }
            }
        }
        self.is_failing |= has_failed;
        Ok(if has_failed { turn } else { Turn::MoreToDo })
    }

    /// Takes over the socket's own count of what it had no room for.
    fn count_overflows(&mut self) {
        if let Some(total) = self.batch.overflows()
            && total != self.overflows
        {
            self.stats.queue_overflows.add(u64::from(total.wrapping_sub(self.overflows)));
            self.overflows = total;
        }
    }

    /// Checks every datagram of the batch and collects the sound ones for writing.
    fn take_in(&mut self, num_buffers: usize, now: Instant) {
        for buffer in 0..num_buffers {
            let mut start = 0;
            let mut accepted = Accepted::default();
            loop {
                let (bytes, datagram_len) = self.batch.datagrams_mut(buffer);
                let end = (start + datagram_len).min(bytes.len());
                let datagram = &mut bytes[start..end];
                let len = datagram.len();
                match self.accept.packet(datagram) {
                    Ok(inner) => {
                        accepted.add(inner.src, len);
                        self.coalescer.push(&self.batch, PacketAt { buffer, start, len }, &inner);
                    }
                    Err(reason) => {
                        self.stats.ingress.drop(reason, 1);
                        if reason == DropReason::TtlExpired {
                            self.answer_peer(PacketAt { buffer, start, len }, now);
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

    /// Counts what one buffer brought for the peer that has the sender's subnet: all datagrams in
    /// a buffer came from one socket.
    fn count_for_peer(&self, accepted: &Accepted) {
        if let Some(src) = accepted.src
            && let Some(next_hop) = self.routes.table().lookup(src)
        {
            self.stats.ingress.peers.add(*next_hop.addr.ip(), accepted.packets, accepted.bytes);
        }
    }

    /// Tells a sender beyond the underlay that its packet's TTL ended here. The reply goes
    /// straight to the peer that has the sender's subnet, never through the TUN.
    fn answer_peer(&mut self, at: PacketAt, now: Instant) {
        let packet = at.bytes(&self.batch);
        let Ok(offender) = classify::inner(packet) else { return };
        if !icmp::is_from_network(&offender, self.routes.table().network(), self.accept.subnet) {
            return;
        }
        let Some(next_hop) = self.routes.table().lookup(offender.src) else { return };
        let mut reply = [0; MAX_REPLY_LEN];
        let error = IcmpError::TimeExceeded;
        let Some(len) = error.reply(&offender, packet, self.tun_addr, &mut reply) else { return };
        if self.may_send_icmp(error, now) {
            // An ICMP error is a courtesy: one that the socket does not take is not retried.
            let path = Path::shared(next_hop.addr);
            let sent = self.udp.send(path, None, &[IoSlice::new(&reply[..len])]);
            self.has_errors |= sent.is_err_and(|error| may_be_of_another(&error));
        }
    }

    /// Writes what was collected to the TUN.
    fn write_out(&mut self) -> Result<(), Lost> {
        let items = self.coalescer.items();
        let result = self.writer.write(&self.tun, items, &self.batch, &self.stats.ingress);
        self.coalescer.clear();
        result.map_err(lost_tun)
    }
}

/// What was accepted of one receive buffer.
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
