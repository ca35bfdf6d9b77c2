//! [`Session`]: one capture as the workers see it: what matches, and a queue of limited length.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded};
use ipnetwork::Ipv4Network;

use crate::dataplane::packet::headers::{IPV4_HEADER_LEN, ipv4, ipv4_at};
use crate::dataplane::stats::drop_reason::DropReason;

/// Packets that wait at most: as many as a fast network carries until control reads again.
const MAX_WAITING: usize = 16_384;

/// Their bytes.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From this host to a peer.
    Egress,
    /// From a peer to this host.
    Ingress,
}

/// Which packets are captured, and how much of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Those with source or destination in one of these; with none, all.
    pub subnets: Vec<Ipv4Network>,
    /// Those of one direction.
    pub direction: Option<Direction>,
    /// Only those that are dropped.
    pub only_dropped: bool,
    /// Most bytes kept of a packet.
    pub snap_len: usize,
}

/// A copy of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// When it was copied.
    pub at: SystemTime,
    /// Its way.
    pub direction: Direction,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
    /// Whether the kernel carried it, and no worker.
    pub by_kernel: bool,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Its whole length, in bytes.
    pub len: usize,
}

/// The workers' end of a capture.
#[derive(Debug)]
pub(super) struct Session {
    filter: Filter,
    sender: Sender<Captured>,
    waiting_bytes: Arc<AtomicUsize>,
    num_matched: AtomicU64,
    num_lost: AtomicU64,
    is_over: AtomicBool,
}

/// Control's end.
#[derive(Debug)]
pub(super) struct SessionReceiver {
    receiver: Receiver<Captured>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Session {
    pub(super) fn new(filter: Filter) -> (Self, SessionReceiver) {
        let (sender, receiver) = bounded(MAX_WAITING);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let session = Self {
            filter,
            sender,
            waiting_bytes: Arc::clone(&waiting_bytes),
            num_matched: AtomicU64::new(0),
            num_lost: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        };
        (session, SessionReceiver { receiver, waiting_bytes })
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        (self.num_matched.load(Ordering::Relaxed), self.num_lost.load(Ordering::Relaxed))
    }

    pub(super) fn offer(
        &self,
        direction: Direction,
        reason: Option<DropReason>,
        pieces: &[IoSlice<'_>],
    ) {
        if !self.filter.matches(direction, reason, pieces) {
            return;
        }
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.keep(direction, reason, pieces, (len, None));
    }

    /// Offers the first bytes of a packet of this `len` that the kernel carried.
    pub(super) fn offer_from_kernel(
        &self,
        direction: Direction,
        bytes: &[u8],
        len: usize,
        at: SystemTime,
    ) {
        let pieces = [IoSlice::new(bytes)];
        if self.filter.matches(direction, None, &pieces) {
            self.keep(direction, None, &pieces, (len, Some(at)));
        }
    }

    /// The capture has ended.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Most bytes kept of a packet.
    pub(super) const fn snap_len(&self) -> usize {
        self.filter.snap_len
    }

    /// Whether packets that are not dropped are wanted.
    pub(super) const fn takes_all(&self) -> bool {
        !self.filter.only_dropped
    }

    /// Counts packets that were lost before they could be offered. Some may be of no concern.
    pub(super) fn count_lost(&self, num: u64) {
        self.num_matched.fetch_add(num, Ordering::Relaxed);
        self.num_lost.fetch_add(num, Ordering::Relaxed);
    }

    /// Copies a packet that matches into the queue, if there is room. What the kernel carried has its
    /// time.
    fn keep(
        &self,
        direction: Direction,
        reason: Option<DropReason>,
        pieces: &[IoSlice<'_>],
        (len, at): (usize, Option<SystemTime>),
    ) {
        self.num_matched.fetch_add(1, Ordering::Relaxed);
        let kept = len.min(self.filter.snap_len);
        // Each worker may exceed the limit by one packet.
        let has_room = self.waiting_bytes.load(Ordering::Relaxed) + kept <= MAX_WAITING_BYTES
            && !self.sender.is_full();
        if !has_room {
            self.num_lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (by_kernel, at) = (at.is_some(), at.unwrap_or_else(SystemTime::now));
        let packet = Captured { at, direction, reason, by_kernel, bytes: head(pieces, kept), len };
        self.waiting_bytes.fetch_add(kept, Ordering::Relaxed);
        if self.sender.try_send(packet).is_err() {
            self.waiting_bytes.fetch_sub(kept, Ordering::Relaxed);
            self.num_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl SessionReceiver {
    pub(super) fn take(&self) -> impl Iterator<Item = Captured> {
        self.receiver.try_iter().inspect(|packet| {
            self.waiting_bytes.fetch_sub(packet.bytes.len(), Ordering::Relaxed);
        })
    }
}

impl Filter {
    fn matches(
        &self,
        direction: Direction,
        reason: Option<DropReason>,
        pieces: &[IoSlice<'_>],
    ) -> bool {
        let is_wanted = self.direction.is_none_or(|wanted| wanted == direction)
            && (reason.is_some() || !self.only_dropped);
        is_wanted
            && (self.subnets.is_empty()
                || addrs(pieces).is_some_and(|addrs| {
                    let has =
                        |subnet: &Ipv4Network| addrs.iter().any(|addr| subnet.contains(*addr));
                    self.subnets.iter().any(has)
                }))
    }
}

/// Source and destination, if the packet has an IPv4 header.
fn addrs(pieces: &[IoSlice<'_>]) -> Option<[Ipv4Addr; 2]> {
    let head: &[u8] = pieces.first()?;
    let is_ipv4 = head.len() >= IPV4_HEADER_LEN && head[0] >> 4 == 4;
    is_ipv4.then(|| [ipv4_at(head, ipv4::SRC), ipv4_at(head, ipv4::DST)])
}

fn head(pieces: &[IoSlice<'_>], len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for piece in pieces {
        let len = piece.len().min(len - bytes.len());
        bytes.extend_from_slice(&piece[..len]);
    }
    bytes
}
