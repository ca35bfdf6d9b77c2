//! control::config.

pub mod backend;
pub mod network;
