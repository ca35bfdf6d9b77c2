//! ← start here: one worker, both directions, run to completion on one thread.
//!
//! A worker owns one TUN queue and one UDP socket. Each *turn* reads what is ready on both, up to a
//! budget, and sends everything it read before it ends. So neither direction starves the other, and
//! packets that are read together are sent together. When turns find nothing, the worker sleeps:
//! see `worker/event_loop.rs`.
//!
//! ```text
//! worker/egress.rs    tun.read → Encap::forward (classify, lookup, TTL, split, pack) → Sender
//!                     → udp.send
//! worker/ingress.rs   udp.recv → IngressFilter::check (classify, checks, TTL) → Coalescer
//!                     → Writer → tun.write
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::capture::Tap;
use super::egress::encap::Encap;
use super::egress::sender::Sender;
use super::icmp::{IcmpError, IcmpLimits, MAX_REPLY_LEN};
use super::ingress::coalesce::Coalescer;
use super::ingress::filter::IngressFilter;
use super::ingress::writer::Writer;
use super::io::recv_batch::{MAX_BUFFERS, RecvBatch};
use super::io::tun::TunQueue;
use super::io::udp::UdpSocket;
use super::offload::Offloads;
use super::pmtu::PathMtuCache;
use super::stats::worker::WorkerStats;
use crate::routes::publish::RouteSubscriber;

mod egress;
mod error_queue;
mod ingress;
mod busy_poll;
mod event_loop;
mod offload_fallback;

use offload_fallback::OffloadBackoffs;

pub(super) use event_loop::WAKE;

/// How much of its budget a turn used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// Nothing was ready.
    Unused,
    /// Everything that was ready is done.
    Partial,
    /// The budget is used up and packets may be left for the next turn.
    Exhausted,
}

/// The worker's device failed permanently.
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
    filter: IngressFilter,
    routes: RouteSubscriber,
    paths: PathMtuCache,
    /// The socket's error queue may hold errors.
    has_errors: bool,
    encap: Encap,
    sender: Sender,
    batch: RecvBatch,
    coalescer: Coalescer,
    writer: Writer,
    offloads: Offloads,
    backoffs: OffloadBackoffs,
    /// The socket's send buffer is full: read nothing from the TUN until there is room.
    is_blocked: bool,
    /// A device kept failing in this turn and may still have packets ready.
    is_failing: bool,
    /// The socket's overflow count in the last turn that received something.
    overflows: u32,
    icmp_limits: IcmpLimits,
    quote: Vec<u8>,
    tap: Tap,
    stats: Arc<CachePadded<WorkerStats>>,
}

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// A worker between `tun` and `udp` that uses the offloads of both.
    pub fn new(
        tun: T,
        udp: U,
        tun_addr: Ipv4Addr,
        filter: IngressFilter,
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
            filter,
            routes,
            paths: PathMtuCache::off(),
            has_errors: false,
            encap,
            sender: Sender::new(gso),
            // With all offloads off, the operator wants one packet per system call.
            batch: RecvBatch::new(if offloads == Offloads::OFF { 1 } else { MAX_BUFFERS }),
            coalescer: Coalescer::new(offloads),
            writer: Writer::new(offloads),
            offloads,
            backoffs: OffloadBackoffs::default(),
            is_blocked: false,
            is_failing: false,
            overflows: 0,
            icmp_limits: IcmpLimits::new(Instant::now()),
            quote: Vec::with_capacity(MAX_REPLY_LEN),
            tap: Tap::default(),
            stats,
        }
    }

    /// Makes the worker learn path MTUs, together with all workers that have a clone of `paths`.
    /// Without this the kernel fragments datagrams that are too long for their path.
    #[must_use]
    pub fn with_path_mtus(mut self, paths: PathMtuCache) -> Self {
        self.paths = paths;
        self
    }

    /// Tells the worker that this host has to fragment datagrams of more than `longest` bytes, so
    /// that each of them is sent by itself.
    #[must_use]
    pub fn with_longest_whole(mut self, longest: u16) -> Self {
        self.encap.pending().0.limit_length(longest.into());
        self
    }

    /// Makes the worker offer its packets to captures.
    #[must_use]
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.tap = tap;
        self
    }

    /// Makes the worker continue the counters of an earlier one.
    #[must_use]
    pub fn with_stats(mut self, stats: Arc<CachePadded<WorkerStats>>) -> Self {
        stats.offloads.start(self.offloads, self.tun.refused().or(self.udp.refused()));
        self.stats = stats;
        self
    }

    /// The worker's counters. Any thread may read them at any time.
    pub fn stats(&self) -> Arc<CachePadded<WorkerStats>> {
        Arc::clone(&self.stats)
    }

    /// Handles what is ready in both directions, up to the budget of one turn.
    ///
    /// # Errors
    /// [`Lost`] when the TUN device no longer exists.
    pub fn turn(&mut self, now: Instant) -> Result<Budget, Lost> {
        self.is_failing = false;
        self.routes.refresh();
        self.tap.refresh();
        self.refresh_paths(now);
        let mut used = self.egress(now)?.max(self.ingress(now)?);
        self.update_offloads(now);
        // Must be done before the worker sleeps: no event would report these errors again.
        if self.drain_error_queue(now) {
            used = Budget::Exhausted;
        }
        if used == Budget::Exhausted {
            self.stats.budget_exhausted.add(1);
        }
        Ok(used)
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
