//! Where leases come from, and what a lease is.

pub mod kv;
pub mod lease;
