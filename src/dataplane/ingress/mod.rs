//! Stages from the wire to the TUN device: filter, merge, write.

pub mod filter;
pub mod coalesce;
pub mod writer;
