//! WHO owns which subnet: the network config, the leases of all nodes, and our own.

pub mod acquire;
pub mod allocate;
mod backoff;
pub mod config;
mod go_json;
pub mod lease;
mod log_limit;
pub mod registry;
pub mod renew;
#[cfg(test)]
mod test_log;
mod time_text;
pub mod watch;
