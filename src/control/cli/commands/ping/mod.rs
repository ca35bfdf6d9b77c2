//! `flanneld ping`: whether packets reach a peer, underlay and overlay apart, and why not.

pub(in crate::control::cli) mod observe;
pub(in crate::control::cli) mod target;
pub(in crate::control::cli) mod verdict;
