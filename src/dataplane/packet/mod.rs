//! The bytes of a packet: reading, checking and building headers. No I/O.

pub mod vnet_hdr;
pub mod classify;
pub mod flow;
pub mod checksum;
pub mod headers;
pub mod builder;
mod sys;
