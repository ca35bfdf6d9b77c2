//! TUN queues and UDP sockets, the system calls behind them, and their in-memory twins.

pub mod tun;
pub mod udp;
pub mod underlay_flow;
pub mod recv_batch;
pub mod underlay_error;
pub mod cmsg;
pub(crate) mod kernel_release;
pub mod memory;
pub(crate) mod sys;
