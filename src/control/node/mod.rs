//! control::node.

pub mod signals;
pub(crate) mod supervisor;
pub mod subnet_env;
pub(crate) mod state_file;
