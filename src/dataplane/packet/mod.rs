//! dataplane::packet.

pub mod vnet_hdr;
pub mod classify;
pub mod flow;
pub mod checksum;
pub mod headers;
pub mod builder;
