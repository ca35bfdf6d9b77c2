//! The socket's error queue: errors are counted, and path MTUs learned from them.

use std::io;
use std::time::Instant;

use tracing::{debug, info};

use super::super::pmtu::Event;
use super::Worker;
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;
use crate::dataplane::io::underlay_error::{TooLong, UnderlayError};
use crate::dataplane::packet::classify;
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;
use crate::dataplane::stats::peer_error::{PeerError, PeerErrorKind};
use crate::routes::NextHop;

/// The ICMP type of RFC 792.
const DESTINATION_UNREACHABLE: u8 = 3;

/// Budget of one turn: errors taken from the queue.
const MAX_ERRORS: usize = 64;

impl<T: TunQueue, U: UdpSocket> Worker<T, U> {
    /// Takes over path MTUs that other workers learned, and expires old ones. First reads the error
    /// queue, so that an answer that has arrived does not count as missing.
    pub(super) fn refresh_paths(&mut self, now: Instant) {
        if self.paths.awaits_answer() {
            self.take_errors(now);
        }
        self.paths.refresh(now);
    }

    /// Reads the error queue if it may hold errors. Returns whether some are left.
    pub(super) fn drain_error_queue(&mut self, now: Instant) -> bool {
        let hints = self.sender.take_hints();
        if let Some((to, errno)) = hints.refused {
            let kind = PeerErrorKind::SendRefused(errno);
            self.stats.peer_errors.report(PeerError { to, kind, reporter: None });
        }
        self.has_errors |= hints.errors || self.paths.awaits_answer();
        if self.has_errors {
            self.take_errors(now);
        }
        self.report_path_events();
        self.has_errors
    }

    fn take_errors(&mut self, now: Instant) {
        for _ in 0..MAX_ERRORS {
            match self.udp.take_error() {
                Ok(error) => {
                    self.stats.underlay_errors.add(1);
                    if let Some(too_long) = error.too_long {
                        self.learn_path_mtu(&error, &too_long, now);
                    }
                    self.report_unreachable(&error);
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

    /// Reports an ICMP *destination unreachable* to control, which knows the peers.
    fn report_unreachable(&self, error: &UnderlayError) {
        if let Some(icmp) = error.icmp
            && icmp.kind == DESTINATION_UNREACHABLE
            && let Some(kind) = PeerErrorKind::of_unreachable(icmp.code)
        {
            let reporter = Some(icmp.sender);
            self.stats.peer_errors.report(PeerError { to: error.to, kind, reporter });
        }
    }

    fn learn_path_mtu(&mut self, error: &UnderlayError, too_long: &TooLong, now: Instant) {
        let peer = *error.to.ip();
        if too_long.is_local || self.can_be_ours(error, too_long) {
            self.paths.handle_claim(peer, too_long, now);
        } else {
            self.paths.reject(peer);
        }
    }

    /// Whether this node may have sent the datagram that an ICMP quotes: to the address and port of
    /// a peer, from the port that the peer's flows use, and around a packet for that peer that is
    /// longer than the path allows. The kernel has already compared the datagram's source with the
    /// socket's.
    fn can_be_ours(&self, error: &UnderlayError, too_long: &TooLong) -> bool {
        let routes = self.routes.table();
        let is_ours = |next_hop: NextHop| {
            next_hop.addr == error.to && next_hop.any_source_port == error.from_own_port
        };
        match classify::quoted(too_long.quote.bytes()) {
            Ok(Some((dst, len))) => {
                let fits = u32::from(len) + ENCAP_OVERHEAD_V4 <= too_long.outer_mtu;
                !fits && routes.lookup(dst).is_some_and(is_ours)
            }
            Ok(None) => routes.next_hops().any(is_ours),
            Err(_) => false,
        }
    }

    /// Counts and logs changes of path MTUs. Of false claims about a path only the first is logged,
    /// because they come in floods; all are counted.
    fn report_path_events(&mut self) {
        for (peer, event) in self.paths.take_events() {
            match event {
                Event::Claimed => debug!(%peer, "ICMP says that the path is narrow: probing"),
                Event::Refused => self.stats.pmtu_refused.add(1),
                Event::Disproved => {
                    self.stats.pmtu_refused.add(1);
                    info!(%peer, "path MTU stays: a probe disproved an ICMP, forged or out of date");
                }
                Event::Narrowed(mtu) => {
                    self.stats.pmtu_decreases.add(1);
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
