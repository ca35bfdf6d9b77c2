//! The daemon in real network namespaces, with a real etcd: what its users see.
//!
//! Needs root, `/dev/net/tun` and namespaces; where they are missing the tests fail and say so.
//! `make netns` runs them, one after the other. Every lab is removed with its test, and those of
//! a run that was killed by the next run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "the harness is this target's own")]

mod harness;
mod packets;
mod flows;

mod forward;
mod host;
mod interface;
mod mtu;
mod pmtu;
mod offload;
mod fast_path;
mod order;
mod classes;
mod garbage;
mod kernel_backends;
mod kube;
mod stock_captures;
mod leases;
mod recursion;
mod restart;
mod silence;
mod capture;
mod chaos;
mod access;
mod config;
mod stock;
mod systemd;
mod lab;
mod doctor;
