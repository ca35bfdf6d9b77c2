//! What `flanneld` does apart from running the daemon.

pub mod config_check;
