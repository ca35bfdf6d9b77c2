//! HOW a packet gets there: plain threads between TUN queues and UDP sockets.
//!
//! Start at [`worker`]. No stage does I/O; system calls stand in [`tun`], [`udp`] and `sys` alone.

pub mod offload;
pub mod stats;
pub mod engine;
pub mod tun;
pub mod udp;

pub use engine::{Engine, EngineConfig, EngineError};
pub use offload::Offloads;
