//! control::subnet.

pub mod kv;
pub mod lease;
