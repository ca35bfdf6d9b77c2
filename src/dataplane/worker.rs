//! ← start here: one worker, both directions, run to completion on one thread.
//!
//! A worker owns one TUN queue and one UDP socket. Each *turn* takes what is ready on both, within
//! limits, and leaves nothing half done: so neither direction starves the other, and what is read
//! together is sent together. When a turn finds nothing, the worker sleeps in `poll`.
//!
//! ```text
//! egress:   tun.read → Encap::forward (classify, lookup, TTL, split, pack) → Sender → udp.send
//! ingress:  udp.recv → Accept::packet (classify, checks, TTL) → Coalescer → Writer → tun.write
//! ```

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::coalesce::{Coalescer, PacketAt};
use super::decap::Accept;
use super::drop_reason::DropReason;
use super::encap::Encap;
use super::icmp::{IcmpError, IcmpLimit, MAX_REPLY_LEN};
use super::offload::Offloads;
use super::pmtu::PathMtuCache;
use super::recv_batch::{MAX_BUFFERS, RecvBatch};
use super::send_queue::Path;
use super::sender::Sender;
use super::stats::WorkerStats;
use super::tun::{TunQueue, is_gone};
use super::udp::UdpSocket;
use super::underlay_error::may_be_of_another;
use super::vnet_hdr::VnetHdr;
use super::writer::Writer;
use crate::routes::publish::RouteSubscriber;

mod heed;
mod poll;
mod retreat;

use retreat::Fallbacks;

pub(super) use poll::WAKE;

/// Most packets or superpackets read from the TUN in one turn.
const EGRESS_TURN: usize = 64;
/// Most receive calls in one turn, of up to [`MAX_BUFFERS`] buffers each.
const INGRESS_TURN: usize = 4;

/// What a turn left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Nothing was ready.
    Idle,
    /// Everything that was ready is done.
    Done,
    /// The turn's limit came first.
    MoreToDo,
}

/// The worker's device or socket failed for good.
#[derive(Debug, thiserror::Error)]
#[error("lost the {what}")]
pub struct Lost {
    /// `TUN queue` or `poll`.
    pub what: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// One thread's share of the data plane.
#[derive(Debug)]
pub struct Worker<T, U> {
    tun: T,
    udp: U,
    /// Address of the TUN device: the source of ICMP errors.
    tun_addr: Ipv4Addr,
    accept: Accept,
    routes: RouteSubscriber,
    paths: PathMtuCache,
    /// The socket holds ICMP errors, or may do so.
    has_errors: bool,
    encap: Encap,
    sender: Sender,
    batch: RecvBatch,
    coalescer: Coalescer,
    writer: Writer,
    offloads: Offloads,
    fallbacks: Fallbacks,
    /// The socket's send buffer is full: read nothing from the TUN until it drains.
    is_blocked: bool,
    /// The socket's count of overflows, as last seen.
    overflows: u32,
    icmp_limit: IcmpLimit,
    quote: Vec<u8>,
    stats: Arc<CachePadded<WorkerStats>>,
}

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// A worker between `tun` and `udp`, with whatever offloads both have.
    pub fn new(
        tun: T,
        udp: U,
        tun_addr: Ipv4Addr,
        accept: Accept,
        routes: RouteSubscriber,
    ) -> Self {
        let Offloads { tso, uso, .. } = tun.offloads();
        let Offloads { gso, gro, .. } = udp.offloads();
        let offloads = Offloads { tso, uso, gso, gro };
        let stats = Arc::new(CachePadded::new(WorkerStats::default()));
        stats.offloads.start(offloads, tun.refused().or(udp.refused()));
        Self {
            tun,
            udp,
            tun_addr,
            accept,
            routes,
            paths: PathMtuCache::off(),
            has_errors: false,
            encap: Encap::new(gso),
            sender: Sender::new(gso),
            // With all offloads off, one packet per system call is what was asked for.
            batch: RecvBatch::new(if offloads == Offloads::OFF { 1 } else { MAX_BUFFERS }),
            coalescer: Coalescer::new(offloads),
            writer: Writer::new(offloads),
            offloads,
            fallbacks: Fallbacks::default(),
            is_blocked: false,
            overflows: 0,
            icmp_limit: IcmpLimit::new(Instant::now()),
            quote: Vec::with_capacity(MAX_REPLY_LEN),
            stats,
        }
    }

    /// The same worker, which learns path MTUs together with all others that have a clone of
    /// `paths`; without, longer datagrams than a path takes are left to the kernel to fragment.
    #[must_use]
    pub fn with_path_mtus(mut self, paths: PathMtuCache) -> Self {
        self.paths = paths;
        self
    }

    /// The same worker, which goes on with the counters of one before it.
    #[must_use]
    pub fn with_stats(mut self, stats: Arc<CachePadded<WorkerStats>>) -> Self {
        stats.offloads.start(self.offloads, self.tun.refused().or(self.udp.refused()));
        self.stats = stats;
        self
    }

    /// The worker's counters, to be read by anybody at any time.
    pub fn stats(&self) -> Arc<CachePadded<WorkerStats>> {
        Arc::clone(&self.stats)
    }

    /// Takes what is ready in both directions, within the limits of a turn.
    ///
    /// # Errors
    /// [`Lost`] when the TUN device is gone.
    pub fn turn(&mut self, now: Instant) -> Result<Turn, Lost> {
        self.routes.refresh();
        self.paths.refresh(now);
        let mut turn = self.egress(now)?.max(self.ingress(now)?);
        self.mind_offloads(now);
        // Before any sleep: what is known by now is kept, and nothing would wake us for it again.
        if self.heed_underlay(now) {
            turn = Turn::MoreToDo;
        }
        if turn == Turn::MoreToDo {
            self.stats.turns_cut.add(1);
        }
        Ok(turn)
    }

    fn egress(&mut self, now: Instant) -> Result<Turn, Lost> {
        if self.is_blocked && !self.send_pending() {
            return Ok(Turn::Idle);
        }
        for num_read in 0..EGRESS_TURN {
            let Some(room) = self.encap.room() else {
                if self.send_pending() {
                    continue;
                }
                return Ok(Turn::Done);
            };
            match self.tun.read(room) {
                Ok((header, len)) => self.forward(&header, len, now),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.stats.egress.drop(DropReason::BadSuperpacket, 1);
                }
                Err(error) if is_gone(&error) => return Err(lost_tun(error)),
                Err(_) => {
                    self.send_pending();
                    return Ok(if num_read == 0 { Turn::Idle } else { Turn::Done });
                }
            }
        }
        self.send_pending();
        Ok(Turn::MoreToDo)
    }

    fn forward(&mut self, header: &VnetHdr, len: usize, now: Instant) {
        match self.encap.forward(header, len, self.routes.table(), self.paths.current()) {
            Ok(true) => {
                self.send_pending();
            }
            Ok(false) => {}
            Err(reason) => {
                self.stats.egress.drop(reason, 1);
                if let Some(error) = IcmpError::for_drop(reason, self.encap.path_mtu()) {
                    self.answer_local(error, header, len, now);
                }
            }
        }
    }

    /// Sends every waiting run; returns false if the socket's buffer is full.
    fn send_pending(&mut self) -> bool {
        let (queue, arena) = self.encap.pending();
        let num_done = self.sender.send(&self.udp, queue.runs(), arena, &self.stats.egress);
        self.is_blocked = num_done < queue.runs().len();
        queue.release(num_done);
        self.encap.reclaim();
        !self.is_blocked
    }

    /// Tells a sender on this side of the TUN why its packet, just refused, ended here.
    fn answer_local(&mut self, error: IcmpError, header: &VnetHdr, len: usize, now: Instant) {
        let Some(offender) = self.encap.refused(header, len, &mut self.quote) else { return };
        let mut reply = [0; MAX_REPLY_LEN];
        let Some(len) = error.reply(&offender, &self.quote, self.tun_addr, &mut reply) else {
            return;
        };
        if self.may_send_icmp(now) {
            // An ICMP error is a courtesy: one that the kernel does not take is not retried.
            drop(self.tun.originate(&reply[..len]));
        }
    }

    fn ingress(&mut self, now: Instant) -> Result<Turn, Lost> {
        for num_calls in 0..INGRESS_TURN {
            match self.udp.recv(&mut self.batch) {
                Ok(num_buffers) => {
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
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.stats.socket_errors.add(1);
                    }
                    return Ok(if num_calls == 0 { Turn::Idle } else { Turn::Done });
                }
            }
        }
        Ok(Turn::MoreToDo)
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
        let Ok(offender) = super::classify::inner(packet) else { return };
        let Some(next_hop) = self.routes.table().lookup(offender.src) else { return };
        let mut reply = [0; MAX_REPLY_LEN];
        let error = IcmpError::TimeExceeded;
        let Some(len) = error.reply(&offender, packet, self.tun_addr, &mut reply) else { return };
        if self.may_send_icmp(now) {
            // An ICMP error is a courtesy: one that the socket does not take is not retried.
            let path = Path::shared(next_hop.addr);
            let sent = self.udp.send(path, None, &[IoSlice::new(&reply[..len])]);
            self.has_errors |= sent.is_err_and(|error| may_be_of_another(&error));
        }
    }

    fn may_send_icmp(&mut self, now: Instant) -> bool {
        let allowed = self.icmp_limit.allow(now);
        let counter = if allowed { &self.stats.icmp_sent } else { &self.stats.icmp_limited };
        counter.add(1);
        allowed
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

const fn lost_tun(source: io::Error) -> Lost {
    Lost { what: "TUN queue", source }
}
