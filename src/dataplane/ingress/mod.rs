//! Stages from the wire to the TUN device: check, coalesce, write.

pub mod filter;
pub mod packet_ref;
pub mod coalesce;
mod candidate;
pub mod gro_item;
pub mod writer;
