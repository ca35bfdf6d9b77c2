//! Stages from the TUN device to the wire: look up the peer, split, pack into batches, send.

pub mod encap;
pub mod recursion;
pub mod split;
pub mod gso_batch;
pub mod send_queue;
pub mod sender;
