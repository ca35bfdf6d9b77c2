//! What the underlay said of datagrams sent: errors counted, path MTUs learned.

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use tracing::debug;

use super::super::tun::TunQueue;
use super::super::udp::UdpSocket;
use super::Worker;

/// Most ICMP errors taken in one turn.
const MAX_ERRORS: usize = 64;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Takes what errors there are if the socket hinted at any. Returns whether some are left.
    pub(super) fn heed_underlay(&mut self, now: Instant) -> bool {
        let hints = self.sender.take_hints();
        if let Some((peer, len)) = hints.too_long
            && self.paths.expects(peer, len)
        {
            self.learn_path(peer, now);
        }
        self.has_errors |= hints.errors;
        if self.has_errors {
            self.take_errors(now);
        }
        self.has_errors
    }

    fn take_errors(&mut self, now: Instant) {
        // Errors come in rows about one peer, of which one question is enough.
        let mut asked = None;
        for _ in 0..MAX_ERRORS {
            match self.udp.take_error() {
                Ok(error) => {
                    self.stats.underlay_errors.add(1);
                    let peer = *error.to.ip();
                    if error.is_too_long && asked != Some(peer) {
                        asked = Some(peer);
                        self.learn_path(peer, now);
                    }
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.stats.socket_errors.add(1);
                    }
                    self.has_errors = false;
                    return;
                }
            }
        }
    }

    /// Asks the kernel what the path to `peer` takes: it has read the ICMP too, checked it, and
    /// knows the links and routes of this host besides.
    fn learn_path(&mut self, peer: Ipv4Addr, now: Instant) {
        let Ok(outer_mtu) = self.udp.path_mtu(peer) else { return };
        if let Some(mtu) = self.paths.learn(peer, outer_mtu, now) {
            self.stats.paths_narrowed.add(1);
            debug!(%peer, mtu, "the path takes shorter packets than was known");
        }
    }
}
