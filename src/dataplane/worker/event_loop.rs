//! Turn after turn, and sleep in between.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::busy_poll::Lookout;
use super::{Lost, Turn, Worker};
use crate::dataplane::io::tun::TunQueue;
use crate::dataplane::io::udp::UdpSocket;

const TUN: Token = Token(0);
const UDP: Token = Token(1);
/// The token under which whoever stops the worker wakes it.
pub(in super::super) const WAKE: Token = Token(2);

/// How soon a full send buffer is tried again. A buffer of megabytes does not run empty in this
/// time, and no event tells when the one of several sockets that was full has room.
const RETRY: Duration = Duration::from_millis(1);

/// How soon a device is tried again that went on failing: it may hold what no event tells of.
const RETRY_FAILED: Duration = Duration::from_millis(10);

impl<T: TunQueue + AsRawFd, U: UdpSocket + AsRawFd> Worker<T, U> {
    /// Takes turns until `stop` is set and the worker is woken through [`WAKE`]. Finding nothing to
    /// do, it looks again for `busy_poll` before it sleeps.
    ///
    /// # Errors
    /// [`Lost`] when the TUN device is gone, or the kernel refuses to poll.
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
        let mut events = Events::with_capacity(4);
        let mut lookout = Lookout::new(busy_poll, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            match self.turn(now)? {
                Turn::MoreToDo => {
                    lookout.active(now);
                    continue;
                }
                Turn::Done => lookout.active(now),
                Turn::Idle => {}
            }
            if lookout.looks_again(now) {
                // A core that others want is theirs: two workers and two programs may share it.
                std::thread::yield_now();
                continue;
            }
            self.stats.polls.add(1);
            match poll.poll(&mut events, self.sleep_limit()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(lost_poll(error));
                }
                Ok(()) | Err(_) => lookout.woke(Instant::now()),
            }
        }
        Ok(())
    }

    /// How long to sleep at most, if no event will tell of what there is to do.
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
