//! Networks of flanneld nodes on one machine, in network namespaces.
//!
//! Start at [`network`]: a [`Lab`] is an underlay, a registry, and nodes with pods behind them.
//! `flannel-lab` and the netns tests are both written on this. Plain blocking code: it drives
//! `ip`, `etcdctl`, `iperf3` and friends, and knows of flanneld only what its users see.

pub mod cli;
pub mod network;
pub mod topology;
pub mod node;
pub mod pods;
pub mod daemon;
pub mod etcd;
pub mod registry;
pub mod state;
pub mod teardown;
pub mod datapath;
pub mod measure;
pub mod report;
pub mod demo;
pub mod backend;
pub mod bench;
pub mod interop;
pub mod status;
pub mod stock_emulator;
pub mod traffic;
pub mod probe;
pub mod netns_agent;
pub mod command;
pub mod process;
pub mod netns;
pub mod tools;
pub mod wait;
pub mod signals;
pub mod progress;
mod error;

pub use error::LabError;
pub use network::{Lab, LabSpec};
