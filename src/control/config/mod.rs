//! Settings as plain data.

pub mod backend;
pub mod daemon;
pub mod etcd;
pub mod kube;
pub mod network;
