//! Where leases come from, and what a lease is.

pub mod kv;
pub mod conflict;
pub mod host_id;
pub mod lease;
