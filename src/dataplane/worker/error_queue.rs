//! What the underlay said of datagrams sent: errors counted, path MTUs learned.

use std::io;
use std::time::Instant;

use tracing::{debug, info};

use super::super::pmtu::{ENCAP_OVERHEAD_V4, Event};
use super::Worker;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::{TooLong, UnderlayError};
use crate::dataplane::packet::classify;
use crate::routes::NextHop;

/// Most ICMP errors taken in one turn.
const MAX_ERRORS: usize = 64;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Takes over what other workers learned of paths, and what time decides. An answer that is
    /// here already must not count as one that did not come.
    pub(super) fn refresh_paths(&mut self, now: Instant) {
        if self.paths.awaits_answer() {
            self.take_errors(now);
        }
        self.paths.refresh(now);
    }

    /// Takes what errors there are if the socket hinted at any. Returns whether some are left.
    pub(super) fn heed_underlay(&mut self, now: Instant) -> bool {
        self.has_errors |= self.sender.take_hints().errors || self.paths.awaits_answer();
        if self.has_errors {
            self.take_errors(now);
        }
        self.report_paths();
        self.has_errors
    }

    fn take_errors(&mut self, now: Instant) {
        for _ in 0..MAX_ERRORS {
            match self.udp.take_error() {
                Ok(error) => {
                    self.stats.underlay_errors.add(1);
                    if let Some(too_long) = error.too_long {
                        self.hear(&error, &too_long, now);
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
        self.has_errors = true;
    }

    fn hear(&mut self, error: &UnderlayError, too_long: &TooLong, now: Instant) {
        let peer = *error.to.ip();
        if too_long.is_local || self.can_be_ours(error, too_long) {
            self.paths.hear(peer, too_long, now);
        } else {
            self.paths.refuse(peer);
        }
    }

    /// Whether we may have sent what an ICMP quotes: to a peer and its port, from the port that its
    /// flows leave from, and around a packet for that peer that is longer than the path takes. The
    /// kernel has compared the datagram's source with the socket's.
    fn can_be_ours(&self, error: &UnderlayError, too_long: &TooLong) -> bool {
        let routes = self.routes.table();
        let is_ours = |next_hop: NextHop| {
            next_hop.addr == error.to && next_hop.any_source_port == error.from_own_port
        };
        match classify::quoted(too_long.quote.bytes()) {
            Ok(Some((dst, len))) => {
                let too_short = u32::from(len) + ENCAP_OVERHEAD_V4 <= too_long.outer_mtu;
                !too_short && routes.lookup(dst).is_some_and(is_ours)
            }
            Ok(None) => routes.next_hops().any(is_ours),
            Err(_) => false,
        }
    }

    /// Counts and logs what became of paths. Of false claims about
    /// a path the first is logged, the rest are counted: they come in floods.
    fn report_paths(&mut self) {
        for (peer, event) in self.paths.take_events() {
            match event {
                Event::Claimed => debug!(%peer, "ICMP says that the path is narrow: probing"),
                Event::Refused => self.stats.pmtu_refused.add(1),
                Event::Disproved => {
                    self.stats.pmtu_refused.add(1);
                    info!(%peer, "path MTU stays: a probe disproved an ICMP, forged or out of date");
                }
                Event::Narrowed(mtu) => {
                    self.stats.paths_narrowed.add(1);
                    info!(%peer, mtu, "path MTU goes down");
                }
                Event::Widened(mtu) => {
                    self.stats.paths_recovered.add(1);
                    info!(%peer, mtu, "path MTU goes up");
                }
                Event::Recovered => {
                    self.stats.paths_recovered.add(1);
                    info!(%peer, "path MTU goes up: the path takes every packet again");
                }
            }
        }
    }
}
