//! control::subnet::kv.

pub mod config_follow;
pub mod config_wait;
pub mod registry;
pub mod allocate;
pub mod acquire;
pub mod conflicts;
pub mod list_watch;
pub mod renew;
#[cfg(test)]
pub mod model_tests;
pub mod lease_cache;
