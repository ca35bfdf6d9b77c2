//! TUN queues and UDP sockets, the system calls behind them, and their twins in memory.

pub mod tun;
pub mod udp;
pub mod recv_batch;
pub mod underlay_error;
pub mod cmsg;
pub(crate) mod kernel_release;
pub mod memory;
pub(crate) mod sys;
