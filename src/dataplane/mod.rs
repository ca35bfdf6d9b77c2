//! HOW a packet gets there: plain threads between TUN queues and UDP sockets.
//!
//! Start at [`worker`]; the other modules stand in the order in which a packet meets them. Stages
//! do no I/O: bytes come in, results go out. System calls stand in [`tun`], [`udp`] and `sys`.

pub mod engine;
pub mod worker;

pub mod tun;
pub mod vnet_hdr;
pub mod encap;
pub mod classify;
pub mod flow;
pub mod recursion;
pub mod split;
pub mod send_queue;
pub mod sender;
pub mod udp;

pub mod recv_batch;
pub mod decap;
pub mod coalesce;
pub mod writer;
pub mod icmp;
pub mod pmtu;
pub mod underlay_error;

pub mod checksum;
mod cmsg;
pub mod drop_reason;
pub mod headers;
mod kernel_release;
pub mod memory;
pub mod fallback;
pub mod offload;
pub mod offload_state;
pub mod packet_builder;
pub mod peer_counters;
pub mod stats;
mod sys;

pub use drop_reason::DropReason;
pub use engine::{Engine, EngineConfig, EngineError, ThreadConfig};
pub use offload::Offloads;
