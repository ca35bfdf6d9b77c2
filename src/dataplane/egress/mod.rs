//! dataplane::egress.

pub mod encap;
pub mod recursion;
pub mod split;
pub mod gso_batch;
pub mod sender;
