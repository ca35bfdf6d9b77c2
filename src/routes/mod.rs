//! WHERE a packet goes: subnets, next hops, and the table that maps one to the other.
//!
//! A [`RouteTable`] is built once from all routes, never changed, and replaced as a whole
//! ([`publish`]). The kernel's own side of routing (the device, its address, the Network route)
//! stands in [`kernel`]. Who owns a subnet is decided elsewhere, in `control`.

pub mod kernel;
mod lpm;
mod next_hop;
pub mod publish;
mod subnet;
mod table;

pub use next_hop::NextHop;
pub use subnet::{Subnet, SubnetError};
pub use table::{Route, RouteTable};
