//! Networks of flanneld nodes on one machine, in network namespaces.
//!
//! Start at [`network`]: a [`Lab`] is an underlay, a registry, and nodes with pods behind them.
//! `flannel-lab` and the netns tests are both written on this. Plain blocking code: it drives
//! `ip`, `etcdctl`, `iperf3` and friends, and knows of flanneld only what its users see.

pub mod cli;
pub mod choice;
pub mod network;
pub mod host;
pub mod kube_api;
pub mod traffic;

pub mod demo;
pub mod interop;
pub mod bench;

pub mod progress;
pub mod report;
pub mod state;
pub mod status;
pub mod list;
pub mod link;
pub mod logs;
pub mod restart;
pub mod teardown;
mod suggest;
mod error;

pub use error::LabError;
pub use network::{Lab, LabSpec};
