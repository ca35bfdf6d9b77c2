//! What a failed send means for its datagrams.

use std::io;

use crate::dataplane::stats::drop_reason::DropReason;

/// What a failed send means for the datagrams in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendError {
    /// The send buffer is full: try again when the socket is writable.
    Blocked,
    /// The device cannot do UDP GSO at all (`udp_send_skb` in net/ipv4/udp.c).
    NoGso,
    /// The datagrams are too long for the path, or the kernel refuses to cut the batch.
    TooLong,
    /// The datagrams are dropped.
    Drop(DropReason),
}

impl SendError {
    /// Classifies what `sendmsg` reports.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::Blocked,
            Some(libc::EIO) => Self::NoGso,
            Some(libc::EMSGSIZE | libc::EINVAL) => Self::TooLong,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Drop(DropReason::NoBuffers),
            // EPERM comes from netfilter; the other errors say that the underlay has no route.
            _ => Self::Drop(DropReason::SendRefused),
        }
    }
}
