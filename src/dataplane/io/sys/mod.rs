//! System calls that need `unsafe`: one per file, safe functions out.
#![allow(unsafe_code)]

pub(super) mod errqueue;
pub(crate) mod ethtool;
pub(crate) mod link_addr;
pub(crate) mod mmap;
pub mod name_service;
pub(crate) mod packet_socket;
pub(super) mod recvmmsg;
pub(crate) mod sockopt;
pub(super) mod tun_create;
pub(super) mod tun_offload;
