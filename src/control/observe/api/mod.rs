//! What the tools and the running daemon say to each other: JSON over the daemon's unix socket.
//!
//! The types are those of both sides, so `--json` prints what the daemon answers. A member that is
//! not known, or does not apply to the backend, is absent. After the first release members are added,
//! never renamed: a tool of another version ignores those that it does not know.

#![expect(missing_docs, reason = "the names of most members say what they are")]

mod capture;
mod drops;
mod peer;
pub(super) mod readiness;
mod status;
mod workers;

pub use self::capture::{
    CaptureDirection, CaptureQuery, DEFAULT_COUNT, DEFAULT_DURATION, DEFAULT_SNAP_LEN, MAX_DURATION,
};
pub use self::drops::{DropRow, Drops, Offender};
pub use self::peer::{Peer, PeerKind, Peers, Traffic};
pub use self::status::{
    Bridge, CheckResult, DataPath, Device, FastPath, FastPathHook, Lease, Registry, Rules, Status,
    Underlay,
};
pub use self::workers::{Way, Worker, Workers};

/// Where the tools' answers are. A daemon answers 404 for what it does not know.
pub mod paths {
    /// [`Status`](super::Status).
    pub const STATUS: &str = "/v1/status";
    /// [`Peers`](super::Peers).
    pub const PEERS: &str = "/v1/peers";
    /// [`Drops`](super::Drops).
    pub const DROPS: &str = "/v1/drops";
    /// Packets as pcapng, for a [`CaptureQuery`](super::CaptureQuery).
    pub const CAPTURE: &str = "/v1/capture";
    /// [`Workers`](super::Workers).
    pub const WORKERS: &str = "/v1/workers";
    /// The last lines of the log, as text.
    pub const LOG: &str = "/v1/log";
}

/// The header in which a daemon names itself, and what its value begins with: the version follows.
pub const SERVER: &str = "flanneld/";
