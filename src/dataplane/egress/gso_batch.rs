//! [`GsoBatch`]: the datagrams that one send call carries. Egress; no I/O.
//!
//! A batch holds datagrams of one [`UnderlayFlow`]. All have the same length, except that the last
//! may be shorter: this is what `UDP_SEGMENT` requires.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use crate::dataplane::io::udp::MAX_GSO_SEGMENTS;
use crate::dataplane::io::underlay_flow::UnderlayFlow;

/// Most bytes in one UDP GSO send: 65,535 minus the outer IPv4 and UDP headers.
const MAX_BATCH_LEN: usize = 65_535 - 20 - 8;

/// Most pieces of one batch: headers and payload of every datagram.
pub const MAX_PIECES: usize = 2 * MAX_GSO_SEGMENTS;

/// A range of bytes to send.
#[derive(Debug, Clone)]
enum Piece {
    /// In the batch's own header bytes.
    Headers(Range<usize>),
    /// In the arena that holds the packets.
    Arena(Range<usize>),
}

/// Datagrams to one peer that one system call can send.
#[derive(Debug)]
pub struct GsoBatch {
    /// Outer addresses and ports of all its datagrams.
    pub flow: UnderlayFlow,
    /// Length of every datagram except perhaps the last, in bytes.
    datagram_len: usize,
    num_datagrams: usize,
    /// Length of all datagrams together, in bytes.
    len: usize,
    /// The path is too narrow for its only datagram.
    in_fragments: bool,
    /// Takes no more datagrams: the last was shorter, the batch is full, or a newer one is open.
    pub(super) is_sealed: bool,
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    /// Index into `pieces` of each datagram's first piece.
    starts: Vec<usize>,
}

impl GsoBatch {
    pub(super) fn new() -> Self {
        Self {
            flow: UnderlayFlow::shared(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            datagram_len: 0,
            num_datagrams: 0,
            len: 0,
            in_fragments: false,
            is_sealed: false,
            headers: Vec::new(),
            pieces: Vec::with_capacity(MAX_PIECES),
            starts: Vec::with_capacity(MAX_GSO_SEGMENTS),
        }
    }

    /// Empties the batch for datagrams of another flow and length; keeps its memory.
    pub(super) fn reset(&mut self, flow: UnderlayFlow, datagram_len: usize) {
        self.flow = flow;
        self.datagram_len = datagram_len;
        self.num_datagrams = 0;
        self.len = 0;
        self.in_fragments = false;
        self.is_sealed = false;
        self.headers.clear();
        self.pieces.clear();
        self.starts.clear();
    }

    pub(super) const fn accepts(&self, datagram_len: usize) -> bool {
        !self.is_sealed
            && datagram_len <= self.datagram_len
            && self.len + datagram_len <= MAX_BATCH_LEN
    }

    /// Adds a datagram: `headers`, which are copied, then `body`, a range of the arena.
    pub(super) fn push(&mut self, headers: &[u8], body: Range<usize>, max_datagrams: usize) {
        self.starts.push(self.pieces.len());
        let datagram_len = headers.len() + body.len();
        if !headers.is_empty() {
            let start = self.headers.len();
            self.headers.extend_from_slice(headers);
            self.pieces.push(Piece::Headers(start..self.headers.len()));
        }
        if !body.is_empty() {
            self.pieces.push(Piece::Arena(body));
        }
        self.num_datagrams += 1;
        self.len += datagram_len;
        self.is_sealed = datagram_len < self.datagram_len
            || self.num_datagrams == max_datagrams
            || self.len + self.datagram_len > MAX_BATCH_LEN;
    }

    /// Adds the only datagram, which is to be sent in fragments.
    pub(super) fn push_in_fragments(&mut self, headers: &[u8], body: Range<usize>) {
        self.in_fragments = true;
        self.push(headers, body, 1);
    }

    /// How many datagrams the batch holds.
    pub const fn num_datagrams(&self) -> usize {
        self.num_datagrams
    }

    /// Length of the longest datagram, which is the first, in bytes.
    pub const fn datagram_len(&self) -> usize {
        self.datagram_len
    }

    /// Length of all datagrams together, in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the batch holds no datagram.
    pub const fn is_empty(&self) -> bool {
        self.num_datagrams == 0
    }

    /// Whether its only datagram is to be sent in fragments at once.
    pub const fn in_fragments(&self) -> bool {
        self.in_fragments
    }

    /// The value for `UDP_SEGMENT`, or `None` for a single datagram.
    pub fn gso_size(&self) -> Option<u16> {
        if self.num_datagrams < 2 {
            return None;
        }
        u16::try_from(self.datagram_len).ok()
    }

    /// Gathers the pieces of the datagrams in `range` into `slices`; returns the filled part.
    pub fn gather<'s, 'a>(
        &'a self,
        range: Range<usize>,
        arena: &'a [u8],
        slices: &'s mut [IoSlice<'a>; MAX_PIECES],
    ) -> &'s [IoSlice<'a>] {
        let piece_at = |datagram: usize| self.starts.get(datagram).copied();
        let first = piece_at(range.start).unwrap_or(self.pieces.len());
        let last = piece_at(range.end).unwrap_or(self.pieces.len());
        let pieces = &self.pieces[first..last];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(match piece {
                Piece::Headers(range) => &self.headers[range.clone()],
                Piece::Arena(range) => &arena[range.clone()],
            });
        }
        &slices[..pieces.len()]
    }
}
