//! control::cli::commands.

pub mod config_check;
