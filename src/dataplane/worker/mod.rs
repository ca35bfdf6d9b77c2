//! ← start here: one worker, both directions, run to completion on one thread.
//!
//! A worker owns one TUN queue and one UDP socket. Each *turn* takes what is ready on both, within
//! limits, and leaves nothing half done: so neither direction starves the other, and what is read
//! together is sent together. When turns find nothing, the worker sleeps (`worker/event_loop.rs`).
//!
//! ```text
//! worker/egress.rs    tun.read → Encap::forward (classify, lookup, TTL, split, pack) → Sender
//!                     → udp.send
//! worker/ingress.rs   udp.recv → Accept::packet (classify, checks, TTL) → Coalescer → Writer
//!                     → tun.write
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::egress::encap::Encap;
use super::egress::sender::Sender;
use super::icmp::{IcmpError, IcmpLimits, MAX_REPLY_LEN};
use super::ingress::coalesce::Coalescer;
use super::ingress::filter::Accept;
use super::ingress::writer::Writer;
use super::io::recv_batch::{MAX_BUFFERS, RecvBatch};
use super::io::tun::TunQueue;
use super::io::udp::UdpSocket;
use super::offload::Offloads;
use super::pmtu::PathMtuCache;
use super::stats::WorkerStats;
use crate::routes::publish::RouteSubscriber;

mod egress;
mod error_queue;
mod ingress;
mod busy_poll;
mod event_loop;
mod offload_fallback;

use offload_fallback::Fallbacks;

pub(super) use event_loop::WAKE;

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
    /// A device went on failing in this turn, and may hold what is ready.
    is_failing: bool,
    /// The socket's count of overflows, as last seen.
    overflows: u32,
    icmp_limits: IcmpLimits,
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
        let mut encap = Encap::new(gso);
        encap.pending().0.limit_segments(udp.max_segments());
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
            encap,
            sender: Sender::new(gso),
            // With all offloads off, one packet per system call is what was asked for.
            batch: RecvBatch::new(if offloads == Offloads::OFF { 1 } else { MAX_BUFFERS }),
            coalescer: Coalescer::new(offloads),
            writer: Writer::new(offloads),
            offloads,
            fallbacks: Fallbacks::default(),
            is_blocked: false,
            is_failing: false,
            overflows: 0,
            icmp_limits: IcmpLimits::new(Instant::now()),
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

    /// The same worker, of whose datagrams those of more than `longest` bytes have to be fragmented
    /// by this host.
    #[must_use]
    pub fn with_longest_whole(mut self, longest: u16) -> Self {
        self.encap.pending().0.limit_length(longest.into());
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
        self.is_failing = false;
        self.routes.refresh();
        self.refresh_paths(now);
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

    fn may_send_icmp(&mut self, error: IcmpError, now: Instant) -> bool {
        let allowed = self.icmp_limits.allow(error, now);
        let counter = if allowed { &self.stats.icmp_sent } else { &self.stats.icmp_limited };
        counter.add(1);
        allowed
    }
}

const fn lost_tun(source: io::Error) -> Lost {
    Lost { what: "TUN queue", source }
}
