//! Stages from the TUN device to the wire: look up the peer, split, batch, send.

pub mod encap;
pub mod recursion;
pub mod split;
pub mod gso_batch;
pub mod sender;
