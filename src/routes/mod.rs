//! WHERE a packet goes: subnets, next hops, and the table that maps one to the other.
//!
//! One publisher changes a [`RouteTable`] under the eyes of all workers ([`publish`]), without a
//! lock and without a copy of its many routes. The kernel's own side of routing (the device, its address, the Network route)
//! stands in [`kernel`]. Who owns a subnet is decided elsewhere, in `control`.

mod direct;
mod lpm;
mod next_hop;
pub mod publish;
mod subnet;
mod table;
mod unusable;

pub use next_hop::NextHop;
pub use subnet::{Subnet, SubnetError};
pub use table::{Route, RouteTable};
pub use unusable::unusable;
