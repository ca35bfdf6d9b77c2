//! twill: a drop-in `flanneld` whose UDP backend is fast.
//!
//! Read in this order. [`routes`] says *where* a packet goes, [`dataplane`] says *how* it gets
//! there, [`control`] says *who* owns which subnet, [`lab`] builds whole networks on one machine.
//!
//! A packet's way is one of two arrows:
//!
//! ```text
//! egress:   tun → split → classify → routes::lookup → encap → udp
//! ingress:  udp → decap → classify → coalesce → tun
//! ```
//!
//! Imports point one way, `control → dataplane → routes`; `tests/boundaries.rs` holds that line.

pub mod routes;
pub mod dataplane;
pub mod control;
pub mod lab;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
