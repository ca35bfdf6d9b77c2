//! flanneld's rules on a real kernel: what it installs, repairs, leaves and removes.
//!
//! Every test makes a user and network namespace of its own, so none needs root. Where namespaces
//! are forbidden they fail.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the harness is this target's own")]

#[path = "../host/mod.rs"]
mod host;

mod expected;
mod firewall_host;

mod blackhole;
mod clean_up;
mod iptables;
mod neighbours;
mod nftables;
mod tools;
