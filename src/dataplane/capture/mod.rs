//! Copies inner packets for captures while there are any: docs/adr/0028.
//!
//! ```text
//! worker ──Tap─────────┬► bounded queue of copies ──► Capture (control) ──► file
//! kernel ──KernelOffer─┘
//! ```
//!
//! Without a capture a worker reads one number in each turn. With one it copies the packets that
//! match into a queue of limited length; what does not fit is counted as lost, and no worker waits.

mod session;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::SystemTime;

use arc_swap::ArcSwap;

pub use self::session::{Captured, Direction, Filter};
use self::session::{Session, SessionReceiver};
use crate::dataplane::stats::drop_reason::DropReason;

/// Captures that may run at the same time.
const MAX_CAPTURES: usize = 4;

/// The captures of all workers: control starts them.
#[derive(Debug, Clone, Default)]
pub struct Captures(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    running: ArcSwap<Vec<Arc<Session>>>,
    /// Changes after `running` has changed.
    version: AtomicU32,
}

/// A worker's view of the captures.
#[derive(Debug, Clone, Default)]
pub struct Tap {
    captures: Captures,
    version: u32,
    running: Arc<Vec<Arc<Session>>>,
    is_on: bool,
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    captures: Captures,
    session: Arc<Session>,
    receiver: SessionReceiver,
}

/// The end of a capture for packets that no worker sees.
#[derive(Debug)]
pub struct KernelOffer(Arc<Session>);

/// As many captures run already as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_CAPTURES} captures run already: end one of them first")]
pub struct TooManyCaptures;

impl Captures {
    /// Starts a capture of the packets that match `filter`.
    ///
    /// # Errors
    /// [`TooManyCaptures`].
    pub fn start(&self, filter: Filter) -> Result<Capture, TooManyCaptures> {
        let (session, receiver) = Session::new(filter);
        let session = Arc::new(session);
        let mut has_room = true;
        self.change(|running| {
            has_room = running.len() < MAX_CAPTURES;
            if has_room {
                running.push(Arc::clone(&session));
            }
        });
        if has_room {
            Ok(Capture { captures: self.clone(), session, receiver })
        } else {
            Err(TooManyCaptures)
        }
    }

    fn change(&self, mut change: impl FnMut(&mut Vec<Arc<Session>>)) {
        self.0.running.rcu(|running| {
            let mut running = Vec::clone(running);
            change(&mut running);
            running
        });
        self.0.version.fetch_add(1, Ordering::Release);
    }
}

impl Tap {
    /// A view of these captures.
    pub fn new(captures: Captures) -> Self {
        let mut tap = Self { captures, ..Self::default() };
        tap.reload();
        tap
    }

    /// Takes over which captures run. Called once per turn.
    #[inline]
    pub fn refresh(&mut self) {
        if self.captures.0.version.load(Ordering::Relaxed) != self.version {
            self.reload();
        }
    }

    #[cold]
    fn reload(&mut self) {
        self.version = self.captures.0.version.load(Ordering::Relaxed);
        // With the number comes the list that belongs to it, or a newer one.
        fence(Ordering::Acquire);
        self.running = self.captures.0.running.load_full();
        self.is_on = !self.running.is_empty();
    }

    /// Whether packets should be [offered](Self::offer).
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Copies the packet that `pieces` make up for each capture that it matches. With a `reason`, it
    /// was dropped.
    #[cold]
    pub fn offer(&self, direction: Direction, reason: Option<DropReason>, pieces: &[IoSlice<'_>]) {
        for session in &*self.running {
            session.offer(direction, reason, pieces);
        }
    }
}

impl Capture {
    /// For who copies what the kernel carries; `None` if only dropped packets are wanted.
    pub fn of_kernel(&self) -> Option<KernelOffer> {
        self.session.takes_all().then(|| KernelOffer(Arc::clone(&self.session)))
    }

    /// Takes the packets that wait, oldest first.
    pub fn take(&self) -> impl Iterator<Item = Captured> {
        self.receiver.take()
    }

    /// How many packets matched, and how many of them were lost because the queue was full.
    pub fn counts(&self) -> (u64, u64) {
        self.session.counts()
    }
}

impl KernelOffer {
    /// Offers the first bytes of a packet of this `len`.
    pub fn offer(&self, direction: Direction, bytes: &[u8], len: usize, at: SystemTime) {
        self.0.offer_from_kernel(direction, bytes, len, at);
    }

    /// Counts packets that were lost before they could be offered. Some may be of no concern.
    pub fn count_lost(&self, num: u64) {
        self.0.count_lost(num);
    }

    /// Most bytes kept of a packet.
    pub fn snap_len(&self) -> usize {
        self.0.snap_len()
    }

    /// Whether the capture has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.session.end();
        self.captures.change(|running| running.retain(|other| !Arc::ptr_eq(other, &self.session)));
    }
}

#[cfg(test)]
mod tests;
