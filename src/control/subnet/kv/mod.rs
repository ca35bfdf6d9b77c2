//! Leases in a key-value store, as stock keeps them in etcd.

pub mod config_follow;
pub mod config_wait;
pub mod registry;
pub mod allocate;
pub mod acquire;
pub mod conflicts;
pub mod list_watch;
pub mod renew;
#[cfg(test)]
mod model_tests;
mod held;
mod lease_cache;
pub(crate) mod manager;
pub(crate) mod state_file;
