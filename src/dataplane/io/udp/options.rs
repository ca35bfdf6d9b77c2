//! Options of the underlay sockets. A kernel that refuses one is logged, and a slower or less
//! informed mode is used.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4RecvErr;
use socket2::Socket;
use tracing::{info, warn};

use super::LongDatagrams;
use crate::dataplane::io::sys;
use crate::dataplane::offload::refusals::Refused;
use crate::dataplane::offload::{Offload, Offloads};

/// Buffer size in each direction, in bytes: some 60 full GSO batches, enough for a scheduling delay
/// of a few milliseconds at 10 Gb/s.
pub(super) const BUFFER_LEN: libc::c_int = 4 << 20;

/// Asks for buffers of `len` bytes: beyond the system's limit if we have the capability,
/// otherwise up to the limit. Smaller buffers drop more packets under load.
pub(super) fn grow_buffers(socket: &Socket, len: libc::c_int) {
    for (force, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        let set = |option| sys::sockopt::set_int(socket.as_fd(), libc::SOL_SOCKET, option, len);
        if let Err(error) = set(force).or_else(|_| set(plain)) {
            warn!(%error, "UDP socket keeps its default buffer size");
        }
    }
}

/// Makes the kernel queue the ICMP errors that come back, which it does not do by default for
/// sockets that are not connected; and sets DF if long datagrams are to be refused.
///
/// The kernel's default (`IP_PMTUDISC_WANT`) sets DF on single datagrams but not on those of a GSO
/// send, and it silently fragments what is longer than a path it knows to be narrow. It also
/// believes every ICMP for ten minutes. `IP_PMTUDISC_PROBE` sets DF on all datagrams and sends all
/// that fit the link, so that only `pmtu` decides how long a packet each path takes.
pub(super) fn discover_path(socket: &Socket, long_datagrams: LongDatagrams) {
    if let Err(error) = setsockopt(socket, Ipv4RecvErr, &true) {
        warn!(%error, "ICMP errors of the underlay will not be noticed");
    }
    if long_datagrams == LongDatagrams::Refused
        && let Err(error) = set_discovery(socket, libc::IP_PMTUDISC_PROBE)
    {
        warn!(%error, "datagrams that are too long for a path will be fragmented");
    }
}

/// Sends without DF (`IP_PMTUDISC_DONT`), so that this host and routers may fragment.
pub(super) fn allow_fragments(socket: &Socket) {
    if let Err(error) = set_discovery(socket, libc::IP_PMTUDISC_DONT) {
        warn!(%error, "datagrams that are too long for a path may be lost");
    }
}

/// Sets `IP_MTU_DISCOVER` (`ip(7)`).
fn set_discovery(socket: &Socket, mode: libc::c_int) -> io::Result<()> {
    sys::sockopt::set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
}

/// Turns on `UDP_GRO` (Linux 5.0) and tests for `UDP_SEGMENT` (Linux 4.18) if `asked` has them;
/// returns what the kernel accepted and what it refused. Logs refusals if `log`.
pub(super) fn negotiate(asked: Offloads, socket: &Socket, log: bool) -> (Offloads, Refused) {
    let (mut taken, mut refused) = (Offloads::OFF, Refused::default());
    // A segment length of 0 is the default and changes nothing.
    for (offload, option, value) in
        [(Offload::Gro, libc::UDP_GRO, 1), (Offload::Gso, libc::UDP_SEGMENT, 0)]
    {
        if !asked.has(offload) {
            continue;
        }
        match sys::sockopt::set_int(socket.as_fd(), libc::SOL_UDP, option, value) {
            Ok(()) => taken.set(offload, true),
            Err(error) => {
                refused = refused.with(offload, &error);
                if log {
                    let offload = offload.name();
                    info!(%error, offload, "kernel refuses the offload: one datagram per call");
                }
            }
        }
    }
    (taken, refused)
}
