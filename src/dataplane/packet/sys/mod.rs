//! `unsafe` code for packet bytes: safe functions out.
#![allow(unsafe_code)]

pub(super) mod checksum;
