//! dataplane::ingress.

pub mod filter;
pub mod coalesce;
pub mod writer;
