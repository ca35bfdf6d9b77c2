//! Turn after turn, with sleep in between.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::busy_poll::BusyPoll;
use super::{Budget, Lost, Worker};
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;

const TUN: Token = Token(0);
const UDP: Token = Token(1);
/// Sockets that only send. Only their errors matter: they drop what they receive.
const SENDERS: Token = Token(3);
/// The token of the engine's waker, which ends a worker's sleep.
pub(in super::super) const WAKE: Token = Token(2);

/// Wait before a full send buffer is tried again. A buffer of megabytes does not drain in this
/// time, and no event reports which of the worker's several sockets has room again.
const RETRY: Duration = Duration::from_millis(1);

/// Wait before a failing device is tried again: edge-triggered epoll does not report again what is
/// still ready.
const RETRY_FAILED: Duration = Duration::from_millis(10);

impl<T: TunQueue + AsRawFd, U: UdpSocket + AsRawFd> Worker<T, U> {
    /// Takes turns until `stop` is set and the worker is woken through [`WAKE`]. When there is
    /// nothing to do it polls without sleeping for `busy_poll`, then sleeps.
    ///
    /// # Errors
    /// [`Lost`] when the TUN device no longer exists, or the kernel refuses to poll.
    pub(in super::super) fn run(
        mut self,
        mut poll: Poll,
        stop: &AtomicBool,
        busy_poll: Duration,
    ) -> Result<(), Lost> {
        for (fd, token) in [(self.tun.as_raw_fd(), TUN), (self.udp.as_raw_fd(), UDP)] {
            let registered =
                poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            registered.map_err(lost_poll)?;
        }
        for fd in self.udp.error_sources() {
            // epoll reports errors in any case; a UDP socket has no priority data.
            let registered =
                poll.registry().register(&mut SourceFd(&fd), SENDERS, Interest::PRIORITY);
            registered.map_err(lost_poll)?;
        }
        let mut events = Events::with_capacity(4);
        let mut busy_poll = BusyPoll::new(busy_poll, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            match self.turn(now)? {
                Budget::Exhausted => {
                    busy_poll.worked(now);
                    continue;
                }
                Budget::Partial => busy_poll.worked(now),
                Budget::Unused => {}
            }
            if busy_poll.should_continue(now) {
                // Let other threads have the core: two workers and two programs may share it.
                std::thread::yield_now();
                continue;
            }
            self.stats.polls.add(1);
            let polled = poll.poll(&mut events, self.sleep_limit());
            self.has_errors |= events.iter().any(|event| event.token() == SENDERS);
            match polled {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(lost_poll(error));
                }
                Ok(()) | Err(_) => busy_poll.woke(Instant::now()),
            }
        }
        Ok(())
    }

    /// Longest sleep, where no event will report that there is work.
    const fn sleep_limit(&self) -> Option<Duration> {
        match (self.is_blocked, self.is_failing) {
            (true, _) => Some(RETRY),
            (false, true) => Some(RETRY_FAILED),
            (false, false) => None,
        }
    }
}

const fn lost_poll(source: io::Error) -> Lost {
    Lost { what: "poll", source }
}
