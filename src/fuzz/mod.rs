//! What is fuzzed: every parser of what others write, and the data plane on bytes from anywhere.
//!
//! Each target is a function of bytes that panics when a promise is broken. libFuzzer runs them
//! through the programs in `fuzz/` (`make fuzz`); `replay` runs them over the inputs in
//! `fuzz/corpus`, and over mutations of those, with every `cargo test`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a target panics when a promise is broken")]

mod flags;
mod packets;
mod registry;

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod replay;

pub use flags::{etcd_settings, flags};
pub use packets::{egress, ingress};
pub use registry::{lease_key, lease_value, network_config, registry_file, state_file, subnet_env};

/// A target's name and its function. The programs in `fuzz/` and the folders below `fuzz/corpus`
/// are called the same.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("network_config", network_config),
    ("lease_key", lease_key),
    ("lease_value", lease_value),
    ("registry_file", registry_file),
    ("state_file", state_file),
    ("subnet_env", subnet_env),
    ("flags", flags),
    ("etcd_settings", etcd_settings),
    ("egress", egress),
    ("ingress", ingress),
];

/// Asserts that a message is one line, as every message to a user is.
fn assert_one_line(message: &impl ToString) {
    let message = message.to_string();
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}
