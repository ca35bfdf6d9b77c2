//! What `flanneld` does apart from running the daemon: a file for each command.

pub mod cleanup;
pub mod config_check;
pub(super) mod peers;
mod peer_table;
pub(super) mod status;
