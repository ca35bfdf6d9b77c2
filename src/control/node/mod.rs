//! This node: its life from lease to ready, its files, and the signals it gets.

pub mod error;
pub mod signals;
pub mod status;
pub(crate) mod supervisor;
pub mod subnet_env;
