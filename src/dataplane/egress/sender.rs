//! Batches → the underlay socket, and what to do when the kernel refuses one.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use super::gso_batch::{GsoBatch, MAX_PIECES};
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::may_be_of_another;
use crate::dataplane::offload::refusals::Refusals;
use crate::dataplane::stats::drop_reason::DropReason;

mod gso_mode;
mod outcome;
mod send_error;

use gso_mode::GsoMode;
pub use outcome::SendContext;
use send_error::SendError;

/// Sends batches through a socket, falling back from GSO where the kernel refuses it.
#[derive(Debug)]
pub struct Sender {
    gso: GsoMode,
    hints: Hints,
    /// How far the oldest batch got that is sent datagram by datagram, if the buffer filled up.
    progress: Option<Progress>,
}

/// How far a batch got that is sent datagram by datagram.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Index of the next datagram.
    next: usize,
    /// One was too long for the path, so all may be fragmented.
    in_fragments: bool,
}

/// What failed sends suggest. The worker follows it up at the end of the turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// The socket may hold ICMP errors.
    pub errors: bool,
    /// The last peer whose path refused a send, and the length of its datagrams in bytes.
    pub too_long: Option<(Ipv4Addr, usize)>,
    /// The last peer to which the kernel refused to send, and its error number.
    pub refused: Option<(SocketAddrV4, i32)>,
}

impl Sender {
    /// A sender that uses GSO if `gso`.
    pub const fn new(gso: bool) -> Self {
        let hints = Hints { errors: false, too_long: None, refused: None };
        Self { gso: GsoMode::new(gso), hints, progress: None }
    }

    /// Uses GSO from now on, until the kernel refuses it again.
    pub const fn allow_gso(&mut self) {
        self.gso.allow();
    }

    /// The refusals of GSO since the last call. Must be called once per turn.
    pub fn take_refusals(&mut self) -> Refusals {
        self.gso.end_turn()
    }

    /// The hints since the last call.
    pub fn take_hints(&mut self) -> Hints {
        std::mem::take(&mut self.hints)
    }

    /// Whether GSO is still in use: a device that cannot do it turns it off.
    pub const fn gso(&self) -> bool {
        self.gso.is_on()
    }

    /// Sends `batches`, oldest first, and counts each datagram as sent or dropped. Returns how many
    /// batches are finished; fewer than all only if the socket's buffer is full.
    pub fn send(
        &mut self,
        socket: &impl UdpSocket,
        batches: &[GsoBatch],
        context: &SendContext<'_>,
    ) -> usize {
        for (index, batch) in batches.iter().enumerate() {
            let is_done = match self.progress.take() {
                Some(progress) => self.send_singly(socket, batch, context, progress),
                None => self.send_batch(socket, batch, context),
            };
            if !is_done {
                return index;
            }
        }
        batches.len()
    }

    /// Sends one batch; returns whether it is finished: sent, or dropped and counted.
    fn send_batch(
        &mut self,
        socket: &impl UdpSocket,
        batch: &GsoBatch,
        context: &SendContext<'_>,
    ) -> bool {
        let num = batch.num_datagrams();
        let is_gso = batch.gso_size().is_some();
        let singly = |in_fragments| Progress { next: 0, in_fragments };
        if batch.in_fragments() || is_gso && (!self.gso() || self.is_known_too_long(batch)) {
            let progress = singly(batch.in_fragments());
            return self.send_singly(socket, batch, context, progress);
        }
        let Err(error) = self.send_datagrams(socket, batch, 0..num, context.arena) else {
            context.sent(batch, 0..num, batch.len());
            self.gso.sent(is_gso);
            return true;
        };
        match SendError::of(&error) {
            SendError::Blocked => return false,
            SendError::NoGso if is_gso => {
                self.gso.unsupported(&error);
                return self.send_singly(socket, batch, context, singly(false));
            }
            // Senders of packets that must not be fragmented are informed when they send the next
            // one: see `Encap::forward`.
            SendError::TooLong => {
                self.hints.too_long = Some((*batch.flow.dst.ip(), batch.datagram_len()));
                if is_gso {
                    self.gso.refused(&error);
                }
                return self.send_singly(socket, batch, context, singly(!is_gso));
            }
            SendError::NoGso => context.dropped(batch, 0..num, DropReason::SendRefused),
            SendError::Drop(reason) => {
                self.note_refusal(batch, reason, &error);
                context.dropped(batch, 0..num, reason);
            }
        }
        true
    }

    fn note_refusal(&mut self, batch: &GsoBatch, reason: DropReason, error: &io::Error) {
        if reason == DropReason::SendRefused
            && let Some(errno) = error.raw_os_error()
        {
            self.hints.refused = Some((batch.flow.dst, errno));
        }
    }

    /// Whether a datagram to the same peer that was not longer was refused in this turn.
    fn is_known_too_long(&self, batch: &GsoBatch) -> bool {
        self.hints
            .too_long
            .is_some_and(|(peer, len)| peer == *batch.flow.dst.ip() && batch.datagram_len() >= len)
    }

    /// Sends the datagrams of `batch` one by one, starting where `progress` says. After the first
    /// that is too long for the path, all may be fragmented. Returns whether the batch is finished;
    /// if not, the buffer is full and the rest waits.
    fn send_singly(
        &mut self,
        socket: &impl UdpSocket,
        batch: &GsoBatch,
        context: &SendContext<'_>,
        progress: Progress,
    ) -> bool {
        let Progress { next, mut in_fragments } = progress;
        for index in next..batch.num_datagrams() {
            let reason = match self.send_one(socket, batch, index, context.arena, &mut in_fragments)
            {
                Ok(len) => {
                    context.sent(batch, index..index + 1, len);
                    continue;
                }
                Err(error) => match SendError::of(&error) {
                    SendError::Blocked => {
                        self.progress = Some(Progress { next: index, in_fragments });
                        return false;
                    }
                    SendError::TooLong => DropReason::TooBigForPath,
                    SendError::NoGso => DropReason::SendRefused,
                    SendError::Drop(reason) => {
                        self.note_refusal(batch, reason, &error);
                        reason
                    }
                },
            };
            context.dropped(batch, index..index + 1, reason);
        }
        true
    }

    /// Sends one datagram of `batch`: whole, or in fragments once one was too long for the path.
    fn send_one(
        &mut self,
        socket: &impl UdpSocket,
        batch: &GsoBatch,
        index: usize,
        arena: &[u8],
        in_fragments: &mut bool,
    ) -> io::Result<usize> {
        if !*in_fragments {
            let sent = self.send_datagrams(socket, batch, index..index + 1, arena);
            if !sent.as_ref().is_err_and(|error| SendError::of(error) == SendError::TooLong) {
                return sent;
            }
            *in_fragments = true;
        }
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let pieces = batch.gather(index..index + 1, arena, &mut slices);
        self.retry(|| socket.send_in_fragments(batch.flow, pieces))?;
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    /// One send of the batch's datagrams in `range`; returns their length in bytes.
    fn send_datagrams(
        &mut self,
        socket: &impl UdpSocket,
        batch: &GsoBatch,
        range: Range<usize>,
        arena: &[u8],
    ) -> io::Result<usize> {
        let gso_size = if range.len() > 1 { batch.gso_size() } else { None };
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let pieces = batch.gather(range, arena, &mut slices);
        self.retry(|| socket.send(batch.flow, gso_size, pieces))?;
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    /// Repeats `send` when it was interrupted, and once when it may have failed because of an
    /// earlier datagram.
    fn retry(&mut self, send: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut may_retry = true;
        loop {
            match send() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if may_retry && may_be_of_another(&error) => {
                    self.hints.errors = true;
                    // The failed call cleared the pending error, so the next result is about this
                    // datagram. This holds for a batch's EMSGSIZE too: forged ICMPs must not make
                    // us send its datagrams one by one.
                    may_retry = false;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests;
