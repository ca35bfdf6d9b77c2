//! What `flanneld` does apart from running the daemon.

pub mod cleanup;
pub mod config_check;
