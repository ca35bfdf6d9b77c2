//! Runs → the underlay socket, and what to do when the kernel refuses one.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::ops::Range;

use tracing::warn;

use super::gso_batch::{MAX_PIECES, Run};
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::may_be_of_another;
use crate::dataplane::stats::DirectionStats;
use crate::dataplane::stats::drop_reason::DropReason;

/// What a refused send means for the datagrams in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The send buffer is full: try again when the socket is writable.
    Blocked,
    /// The device cannot do UDP GSO at all (`udp_send_skb` in net/ipv4/udp.c).
    NoGso,
    /// The datagrams are too long for the path, or in a shape that only GSO minds.
    TooBig,
    /// They end here.
    Drop(DropReason),
}

impl Refusal {
    /// Whether the same datagrams may be taken one by one.
    const fn is_of_shape(self) -> bool {
        matches!(self, Self::NoGso | Self::TooBig)
    }
}

/// Maps what `sendmsg` reports to what is done about it.
fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Refusal::Blocked,
        Some(libc::EIO) => Refusal::NoGso,
        Some(libc::EMSGSIZE | libc::EINVAL) => Refusal::TooBig,
        Some(libc::ENOBUFS | libc::ENOMEM) => Refusal::Drop(DropReason::NoBuffers),
        // EPERM is netfilter's; the rest says that the underlay has no way to the peer.
        _ => Refusal::Drop(DropReason::SendRefused),
    }
}

/// Sends runs through a socket, falling back from GSO where the kernel refuses it.
#[derive(Debug)]
pub struct Sender {
    gso: bool,
    hints: Hints,
    refusals: Refusals,
    /// How far the oldest run got that is sent datagram by datagram, if the buffer filled up then.
    progress: Option<Progress>,
    turn: TurnOfRuns,
    /// How often runs were refused for their shape lately: see [`REFUSED`].
    badness: u32,
}

/// How far a run got that is sent datagram by datagram.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Number of the next datagram.
    next: usize,
    /// One was found to be too long, so all may be fragmented.
    in_fragments: bool,
}

/// What became of the runs of one turn.
#[derive(Debug, Clone, Copy, Default)]
struct TurnOfRuns {
    /// Some were sent as they were.
    sent: bool,
    /// One was refused for its shape: the errno.
    refused: Option<i32>,
}

/// What a turn with a run refused for its shape adds to the badness; one in which all runs were
/// sent takes 1 from it. So it grows where more than a third of the turns are such.
const REFUSED: u32 = 2;

/// The badness at which runs are given up for a while. A few refusals are no reason: where
/// datagrams were too long for a path, the next turn knows that path.
const MAX_BADNESS: u32 = 8 * REFUSED;

/// What refused sends hint at, to be looked into when there is time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// There may be ICMP errors to take from the socket.
    pub errors: bool,
    /// The last peer whose path refused a send, and the length of its datagrams in bytes.
    pub too_long: Option<(Ipv4Addr, usize)>,
}

/// Where the kernel refused an offload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Calls that were refused for their shape and made again packet by packet.
    pub num: u64,
    /// Why the offload is not used any more: the errno.
    pub off: Option<i32>,
}

impl Sender {
    /// A sender that uses GSO if `gso`.
    pub const fn new(gso: bool) -> Self {
        let hints = Hints { errors: false, too_long: None };
        Self {
            gso,
            hints,
            refusals: Refusals { num: 0, off: None },
            progress: None,
            turn: TurnOfRuns { sent: false, refused: None },
            badness: 0,
        }
    }

    /// Uses GSO from now on, until the kernel refuses it again.
    pub const fn allow_gso(&mut self) {
        self.gso = true;
        self.badness = MAX_BADNESS - REFUSED;
    }

    /// Where GSO was refused since this was last asked, which is once a turn.
    pub fn take_refusals(&mut self) -> Refusals {
        let TurnOfRuns { sent, refused } = std::mem::take(&mut self.turn);
        match refused {
            Some(errno) => {
                self.badness += REFUSED;
                if self.gso && self.badness >= MAX_BADNESS {
                    let error = io::Error::from_raw_os_error(errno);
                    warn!(%error, "kernel refuses UDP GSO: sending one datagram at a time for a while");
                    self.gso = false;
                    self.refusals.off = Some(errno);
                }
            }
            None if sent => self.badness = self.badness.saturating_sub(1),
            None => {}
        }
        std::mem::take(&mut self.refusals)
    }

    /// What was noticed since this was last asked.
    pub fn take_hints(&mut self) -> Hints {
        std::mem::take(&mut self.hints)
    }

    /// Whether GSO is still in use: a device that cannot do it turns it off.
    pub const fn gso(&self) -> bool {
        self.gso
    }

    /// Sends the oldest of `runs` first, counting each datagram as sent or dropped. Returns how
    /// many runs are done with; fewer than all of them only if the socket's buffer is full.
    pub fn send(
        &mut self,
        socket: &impl UdpSocket,
        runs: &[Run],
        arena: &[u8],
        stats: &DirectionStats,
    ) -> usize {
        for (index, run) in runs.iter().enumerate() {
            let is_done = match self.progress.take() {
                Some(progress) => self.send_singly(socket, run, arena, stats, progress),
                None => self.send_run(socket, run, arena, stats),
            };
            if !is_done {
                return index;
            }
        }
        runs.len()
    }

    /// Whether the run is done with: sent, or dropped and counted.
    fn send_run(
        &mut self,
        socket: &impl UdpSocket,
        run: &Run,
        arena: &[u8],
        stats: &DirectionStats,
    ) -> bool {
        let num = run.num_datagrams();
        let is_gso = run.gso_size().is_some();
        let singly = |in_fragments| Progress { next: 0, in_fragments };
        if run.in_fragments() || is_gso && (!self.gso || self.is_known_too_long(run)) {
            return self.send_singly(socket, run, arena, stats, singly(run.in_fragments()));
        }
        let Err(error) = self.send_datagrams(socket, run, 0..num, arena) else {
            stats.packets.add(num as u64);
            stats.bytes.add(run.len() as u64);
            stats.peers.add(*run.path.to.ip(), num as u64, run.len() as u64);
            stats.writes.add(1);
            self.turn.sent |= is_gso;
            return true;
        };
        let refusal = refusal(&error);
        self.refusals.num += u64::from(is_gso && refusal.is_of_shape());
        match refusal {
            Refusal::Blocked => return false,
            Refusal::NoGso if is_gso => {
                warn!(%error, "device refuses UDP GSO: sending one datagram at a time for a while");
                self.gso = false;
                self.refusals.off = error.raw_os_error();
                return self.send_singly(socket, run, arena, stats, singly(false));
            }
            // Whose packets must not be fragmented is told so next time: see `Encap::forward`.
            Refusal::TooBig => {
                self.hints.too_long = Some((*run.path.to.ip(), run.datagram_len()));
                if is_gso {
                    self.turn.refused = error.raw_os_error();
                }
                return self.send_singly(socket, run, arena, stats, singly(!is_gso));
            }
            Refusal::NoGso => stats.drop(DropReason::SendRefused, num as u64),
            Refusal::Drop(reason) => stats.drop(reason, num as u64),
        }
        true
    }

    /// Whether a datagram to the same peer that was not longer was refused in this turn.
    fn is_known_too_long(&self, run: &Run) -> bool {
        self.hints
            .too_long
            .is_some_and(|(peer, len)| peer == *run.path.to.ip() && run.datagram_len() >= len)
    }

    /// Sends the datagrams of `run` one by one, from where `progress` says. Once one was found to
    /// be too long, all may be fragmented. Returns whether the run is done with: otherwise the
    /// buffer is full, and the rest waits.
    fn send_singly(
        &mut self,
        socket: &impl UdpSocket,
        run: &Run,
        arena: &[u8],
        stats: &DirectionStats,
        progress: Progress,
    ) -> bool {
        let Progress { next, mut in_fragments } = progress;
        for index in next..run.num_datagrams() {
            let reason = match self.send_one(socket, run, index, arena, &mut in_fragments) {
                Ok(len) => {
                    stats.packets.add(1);
                    stats.bytes.add(len as u64);
                    stats.peers.add(*run.path.to.ip(), 1, len as u64);
                    stats.writes.add(1);
                    continue;
                }
                Err(error) => match refusal(&error) {
                    Refusal::Blocked => {
                        self.progress = Some(Progress { next: index, in_fragments });
                        return false;
                    }
                    Refusal::TooBig => DropReason::TooBigForPath,
                    Refusal::NoGso => DropReason::SendRefused,
                    Refusal::Drop(reason) => reason,
                },
            };
            stats.drop(reason, 1);
        }
        true
    }

    /// Sends one datagram of `run`: whole, unless that was found to be too long for the path.
    fn send_one(
        &mut self,
        socket: &impl UdpSocket,
        run: &Run,
        index: usize,
        arena: &[u8],
        in_fragments: &mut bool,
    ) -> io::Result<usize> {
        if !*in_fragments {
            let sent = self.send_datagrams(socket, run, index..index + 1, arena);
            if !sent.as_ref().is_err_and(|error| refusal(error) == Refusal::TooBig) {
                return sent;
            }
            *in_fragments = true;
        }
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let pieces = run.gather(index..index + 1, arena, &mut slices);
        self.insist(|| socket.send_in_fragments(run.path, pieces))?;
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    /// One send of the run's datagrams in `range`; returns their length in bytes.
    fn send_datagrams(
        &mut self,
        socket: &impl UdpSocket,
        run: &Run,
        range: Range<usize>,
        arena: &[u8],
    ) -> io::Result<usize> {
        let gso_size = if range.len() > 1 { run.gso_size() } else { None };
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let pieces = run.gather(range, arena, &mut slices);
        self.insist(|| socket.send(run.path, gso_size, pieces))?;
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    /// Repeats `send` for as long as another's fault may have stopped it.
    fn insist(&mut self, send: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut may_try_again = true;
        loop {
            match send() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if may_try_again && may_be_of_another(&error) => {
                    self.hints.errors = true;
                    // What was kept for an earlier datagram's sake is gone now: once more tells.
                    // That holds for a run's EMSGSIZE too: forged ICMPs must not have it sent singly.
                    may_try_again = false;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests;
