//! Datagrams on their way out, packed into runs. Egress, last stage before the socket.
//!
//! A *run* is what one system call sends: datagrams to one peer and from one source port, all of
//! one length but for the last, which may be shorter. Runs of one [`Path`] leave in the order in
//! which they were opened, and only its newest takes more datagrams: so packets on one path never
//! overtake each other.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

/// Most datagrams in one UDP GSO send: what every kernel with UDP GSO (4.18 on) accepts.
/// `UDP_MAX_SEGMENTS` in `include/linux/udp.h`; kernels from 6.9 take 128.
pub const MAX_GSO_SEGMENTS: usize = 64;

/// Most bytes in one UDP GSO send: 65,535 less the outer IPv4 and UDP headers.
const MAX_RUN_LEN: usize = 65_535 - 20 - 8;

/// Most pieces of one run: headers and payload of every datagram.
pub const MAX_PIECES: usize = 2 * MAX_GSO_SEGMENTS;

/// The outer addresses and ports that all packets of a flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The peer.
    pub to: SocketAddrV4,
    /// The source port: 0 is the network's own, further numbers are sockets with ports of their
    /// own.
    pub source: u8,
}

impl Path {
    /// The path to `to` from the network's own port.
    pub const fn shared(to: SocketAddrV4) -> Self {
        Self { to, source: 0 }
    }
}

/// A stretch of bytes to send.
#[derive(Debug, Clone)]
enum Piece {
    /// Of the run's own header bytes.
    Headers(Range<usize>),
    /// Of the arena that holds the packets.
    Arena(Range<usize>),
}

/// Datagrams to one peer that one system call can send.
#[derive(Debug)]
pub struct Run {
    /// Where it goes.
    pub path: Path,
    /// Length of every datagram but perhaps the last, in bytes.
    datagram_len: usize,
    num_datagrams: usize,
    /// Length of all datagrams together, in bytes.
    len: usize,
    /// The path does not take its one datagram whole.
    in_fragments: bool,
    /// No more datagrams: the last was shorter, the run is full, or a newer run is open.
    is_sealed: bool,
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    /// Index into `pieces` of each datagram's first piece.
    starts: Vec<usize>,
}

impl Run {
    fn new() -> Self {
        Self {
            path: Path::shared(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
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

    fn reopen(&mut self, path: Path, datagram_len: usize) {
        self.path = path;
        self.datagram_len = datagram_len;
        self.num_datagrams = 0;
        self.len = 0;
        self.in_fragments = false;
        self.is_sealed = false;
        self.headers.clear();
        self.pieces.clear();
        self.starts.clear();
    }

    const fn takes(&self, datagram_len: usize) -> bool {
        !self.is_sealed
            && datagram_len <= self.datagram_len
            && self.len + datagram_len <= MAX_RUN_LEN
    }

    fn push(&mut self, headers: &[u8], body: Range<usize>, max_datagrams: usize) {
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
            || self.len + self.datagram_len > MAX_RUN_LEN;
    }

    /// How many datagrams the run holds.
    pub const fn num_datagrams(&self) -> usize {
        self.num_datagrams
    }

    /// Length of the longest datagram, in bytes: that of the first.
    pub const fn datagram_len(&self) -> usize {
        self.datagram_len
    }

    /// Length of all datagrams together, in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the run holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.num_datagrams == 0
    }

    /// Whether its one datagram is to be sent in fragments from the first.
    pub const fn in_fragments(&self) -> bool {
        self.in_fragments
    }

    /// What `UDP_SEGMENT` must be told, or `None` for a single datagram.
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

/// The runs that wait to be sent, oldest first.
#[derive(Debug)]
pub struct SendQueue {
    runs: Vec<Run>,
    /// Emptied runs, kept for their memory.
    spare: Vec<Run>,
    /// Datagrams per run: `max_segments`, or 1 without GSO.
    max_datagrams: usize,
    max_segments: usize,
    /// Length of the longest datagram that may share a run, in bytes: the kernel cuts no run into
    /// datagrams that would have to be fragmented.
    longest_shared: usize,
}

impl SendQueue {
    /// An empty queue; without `gso` every run holds one datagram.
    pub fn new(gso: bool) -> Self {
        let mut queue = Self {
            runs: Vec::new(),
            spare: Vec::new(),
            max_datagrams: 1,
            max_segments: MAX_GSO_SEGMENTS,
            longest_shared: usize::MAX,
        };
        queue.set_gso(gso);
        queue
    }

    /// Packs no more than `max_segments` datagrams into a run from now on, whatever their length.
    pub fn limit_segments(&mut self, max_segments: usize) {
        self.max_segments = max_segments.clamp(1, MAX_GSO_SEGMENTS);
        self.set_gso(self.max_datagrams > 1);
    }

    /// Gives each datagram of more than `longest` bytes a run of its own from now on.
    pub const fn limit_length(&mut self, longest: usize) {
        self.longest_shared = longest;
    }

    /// Packs further datagrams into runs of many, or of one.
    pub fn set_gso(&mut self, gso: bool) {
        self.max_datagrams = if gso { self.max_segments } else { 1 };
    }

    /// Adds a datagram for `path`: `headers`, which are copied, then `body`, a range of the arena.
    /// Returns whether its run is full, and so is better sent at once.
    #[inline]
    pub fn push(&mut self, path: Path, headers: &[u8], body: Range<usize>) -> bool {
        let datagram_len = headers.len() + body.len();
        let shares = datagram_len <= self.longest_shared;
        let max_datagrams = if shares { self.max_datagrams } else { 1 };
        let index = self.open(path, datagram_len);
        self.runs[index].push(headers, body, max_datagrams);
        self.runs[index].is_sealed
    }

    /// Adds a datagram that the path does not take whole: it is sent by itself, in fragments.
    pub fn push_in_fragments(&mut self, path: Path, headers: &[u8], body: Range<usize>) {
        let datagram_len = headers.len() + body.len();
        if let Some(newest) = self.runs.iter_mut().rfind(|run| run.path == path) {
            newest.is_sealed = true;
        }
        let index = self.open(path, datagram_len);
        self.runs[index].in_fragments = true;
        self.runs[index].push(headers, body, 1);
    }

    /// The run that takes the next datagram for `path`: its newest, or a new one.
    #[inline]
    fn open(&mut self, path: Path, datagram_len: usize) -> usize {
        let newest = self.runs.iter().rposition(|run| run.path == path);
        match newest {
            Some(index) if self.runs[index].takes(datagram_len) => index,
            Some(_) | None => {
                let mut run = self.spare.pop().unwrap_or_else(Run::new);
                run.reopen(path, datagram_len);
                self.runs.push(run);
                self.runs.len() - 1
            }
        }
    }

    /// The runs, oldest first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Forgets the oldest `num` runs: they are sent, or dropped.
    pub fn release(&mut self, num: usize) {
        self.spare.extend(self.runs.drain(..num));
    }
}

#[cfg(test)]
mod tests;
