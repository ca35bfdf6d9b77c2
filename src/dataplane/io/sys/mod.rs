//! The only `unsafe` of the crate: one job a file, safe functions out.
#![allow(unsafe_code)]

pub(crate) mod checksum;
pub(super) mod errqueue;
pub(super) mod recvmmsg;
pub(super) mod sockopt;
pub(super) mod tun_create;
pub(super) mod tun_offload;
