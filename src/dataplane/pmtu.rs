//! Path MTU: how long a packet fits the path to each peer, as learned. Pure state, no I/O.
//!
//! When the underlay gets narrower it says so with an ICMP, which anyone can forge. So an ICMP only
//! triggers a probe; `pmtu/path.rs` says when a claim is proven. Until then no sender gets a
//! *fragmentation needed*. A path that is not known to be narrow counts as wide as the overlay.
//!
//! All workers share what is learned, because the kernel may give an ICMP to the socket of any of
//! them. Like the route table it is replaced as a whole and read without a lock.
//!
//! A limit set by this host's own routes needs no proof and does not expire: `pmtu/limits.rs`.

use super::io::underlay_error::Quote;

mod cache;
mod limits;
mod path;
mod paths;

pub use cache::PathMtuCache;
pub use path::Treatment;
pub use paths::{PathMtus, SharedPaths};

/// The smallest MTU that IPv4 allows, in bytes: RFC 791, section 3.2.
pub const MIN_IPV4_MTU: u16 = 68;

/// The smallest path MTU accepted from an ICMP that quotes no bytes of ours, in bytes of inner
/// packet: Linux's `net.ipv4.route.min_pmtu` of 552, minus the outer headers.
const MIN_UNPROVEN_MTU: u16 = 552 - 28;

/// Common link MTUs, for routers that do not send theirs: RFC 1191, section 7.1.
const PLATEAUS: [u32; 10] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// What an error says about a path.
#[derive(Debug, Clone, Copy)]
struct Claim {
    is_local: bool,
    quote: Quote,
}

/// A change of what is known about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An ICMP claims that it is narrow; a probe will test the claim.
    Claimed,
    /// The claim cannot be about a datagram of ours, or is one more false one.
    Refused,
    /// It is narrow: this is the longest packet that fits, in bytes.
    Narrowed(u16),
    /// It is narrow, but longer packets fit than was known.
    Widened(u16),
    /// It is as wide as the overlay again.
    Recovered,
    /// The claim was false; the first false one in a while.
    Disproved,
}

#[cfg(test)]
mod tests;
