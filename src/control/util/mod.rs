//! Small helpers that know nothing of flannel: logging, back-off, files, random numbers, time.

pub mod log;
pub mod panics;
pub mod build_info;
pub(crate) mod systemd;
pub mod atomic_file;
pub(crate) mod backoff;
pub(crate) mod rng;
pub(crate) mod json_object;
pub(crate) mod log_limit;
pub(crate) mod error_chain;
pub(crate) mod http_client;
pub(crate) mod server_fault;
#[cfg(test)]
pub(crate) mod test_certificates;
#[cfg(test)]
pub(crate) mod test_log;
#[cfg(test)]
pub(crate) mod test_port;
pub(crate) mod time_text;
pub(crate) mod url_user;

pub use crate::dataplane::io::sys::name_service;
