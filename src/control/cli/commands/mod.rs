//! What `flanneld` does apart from running the daemon: a file for each command.

pub(super) mod capture;
pub(super) mod bugreport;
pub mod cleanup;
pub mod config_check;
pub mod install_conf;
pub(super) mod doctor;
pub(super) mod drops;
mod peer_table;
pub(super) mod peers;
pub(super) mod ping;
pub(super) mod status;
mod survey;
pub(super) mod top;
