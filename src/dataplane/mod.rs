//! HOW a packet gets there: plain threads between TUN queues and UDP sockets.
//!
//! Start at [`worker`]; the other modules stand in the order in which a packet meets them. Stages
//! do no I/O: bytes come in, results go out. System calls stand in [`tun`], [`udp`] and `sys`.

pub mod engine;
pub mod worker;

pub mod icmp;
pub mod pmtu;

pub mod offload;
pub mod stats;
pub mod io;
pub mod packet;
pub mod egress;
pub mod ingress;

pub use engine::{Engine, EngineConfig, EngineError, ThreadConfig};
pub use offload::Offloads;
pub use stats::drop_reason::DropReason;
