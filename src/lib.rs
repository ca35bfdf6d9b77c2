//! twill: a drop-in `flanneld` whose UDP backend is fast.
//!
//! Read in this order. [`routes`] says *where* a packet goes, [`dataplane`] says *how* it gets
//! there, [`control`] says *who* owns which subnet, [`lab`] builds whole networks on one machine.
//!
//! A packet passes one of two pipelines:
//!
//! ```text
//! egress:   tun → classify → routes::lookup → split → pack → udp
//! ingress:  udp → classify → filter → coalesce → tun
//! ```
//!
//! Imports point one way, `control → dataplane → routes`; `tests/boundaries.rs` holds that line.

pub mod routes;
pub mod dataplane;
pub mod control;
pub mod lab;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
