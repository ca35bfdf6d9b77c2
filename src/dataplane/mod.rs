//! HOW a packet gets there: plain threads between TUN queues and UDP sockets.
//!
//! Start at [`worker`]. Stages ([`egress`], [`ingress`]) do no I/O: they get bytes and return results.
//! System calls are in [`io`]. Which part imports which is in `tests/boundaries.rs`.

pub mod worker;
pub mod egress;
pub mod ingress;
pub mod packet;
pub mod io;
pub mod capture;

pub mod engine;
pub mod fast_path;
pub mod icmp;
pub mod offload;
pub mod pmtu;
pub mod stats;

pub use engine::{Engine, EngineConfig, EngineError, ThreadConfig};
pub use offload::Offloads;
pub use stats::drop_reason::DropReason;
