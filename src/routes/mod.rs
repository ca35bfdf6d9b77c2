//! WHERE a packet goes: subnets, next hops, and the table that maps one to the other.
//!
//! One publisher changes a [`RouteTable`] while all workers read it ([`publish`]), without a lock and
//! without copying its routes. The kernel's own routes are in `control::host::net`. Who owns
//! a subnet is decided in `control`.

mod direct;
mod lpm;
mod next_hop;
pub mod publish;
mod prefix;
mod table;
mod unusable;

pub use direct::{KERNEL_RECEIVE, NO_ROUTE, pack};
pub use next_hop::{KernelReceive, NextHop};
pub use prefix::{Prefix, PrefixError};
pub use table::{Route, RouteTable};
pub use unusable::unusable;
