//! [`GsoMode`]: whether UDP GSO is in use, and when it is turned off.

use std::io;

use tracing::warn;

use crate::dataplane::offload::refusals::Refusals;

/// What a turn with a refused batch adds to the badness; a turn in which all batches were sent
/// takes 1 from it. So the badness grows where more than a third of the turns have refusals.
const REFUSED: u32 = 2;

/// The badness at which GSO is turned off for a while. A few refusals are not enough: if datagrams
/// were too long for a path, the next turn knows that path.
const MAX_BADNESS: u32 = 8 * REFUSED;

/// Whether UDP GSO is in use.
#[derive(Debug)]
pub(super) struct GsoMode {
    is_on: bool,
    refusals: Refusals,
    /// Some batches of this turn were sent with GSO.
    any_sent: bool,
    /// The errno with which a batch of this turn was refused.
    last_refused: Option<i32>,
    /// How often batches were refused in recent turns: see [`REFUSED`].
    badness: u32,
}

impl GsoMode {
    pub(super) const fn new(is_on: bool) -> Self {
        let refusals = Refusals { num: 0, off: None };
        Self { is_on, refusals, any_sent: false, last_refused: None, badness: 0 }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Turns GSO on again. One turn with a refusal turns it off.
    pub(super) const fn allow(&mut self) {
        self.is_on = true;
        self.badness = MAX_BADNESS - REFUSED;
    }

    /// Records that the kernel accepted a batch, with GSO if `is_gso`.
    pub(super) const fn sent(&mut self, is_gso: bool) {
        self.any_sent |= is_gso;
    }

    /// Records that the kernel refused to cut a batch.
    pub(super) fn refused(&mut self, error: &io::Error) {
        self.refusals.num += 1;
        self.last_refused = error.raw_os_error();
    }

    /// Records that the device cannot do GSO, and turns it off.
    pub(super) fn unsupported(&mut self, error: &io::Error) {
        warn!(%error, "device refuses UDP GSO: sending one datagram at a time for a while");
        self.refusals.num += 1;
        self.turn_off(error.raw_os_error());
    }

    /// Ends a turn: turns GSO off if it was refused in too many turns. Returns the turn's refusals.
    pub(super) fn end_turn(&mut self) -> Refusals {
        let any_sent = std::mem::take(&mut self.any_sent);
        match self.last_refused.take() {
            Some(errno) => {
                self.badness += REFUSED;
                if self.is_on && self.badness >= MAX_BADNESS {
                    let error = io::Error::from_raw_os_error(errno);
                    warn!(%error, "kernel refuses UDP GSO: sending one datagram at a time for a while");
                    self.turn_off(Some(errno));
                }
            }
            None if any_sent => self.badness = self.badness.saturating_sub(1),
            None => {}
        }
        std::mem::take(&mut self.refusals)
    }

    const fn turn_off(&mut self, errno: Option<i32>) {
        self.is_on = false;
        self.refusals.off = errno;
    }
}
