//! Settings as plain data.

pub mod backend;
pub mod network;
