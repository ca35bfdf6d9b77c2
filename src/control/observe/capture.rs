//! A capture as the body of an answer: pcapng, piece by piece, until it has what was asked for or the
//! client hangs up.

mod pcapng;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::info;

use self::pcapng::Encoder;
use crate::dataplane::capture::Capture;

/// How often the workers' queue is emptied: it holds what 800,000 packets a second bring in this
/// time.
const PERIOD: Duration = Duration::from_millis(20);

/// How often the statistics are written, if they have changed.
const STATISTICS_PERIOD: Duration = Duration::from_secs(1);

/// Most bytes of packets in one piece of the body.
const MAX_PIECE: usize = 256 << 10;

/// The body. Dropping it ends the capture.
pub(super) struct CaptureBody {
    capture: Capture,
    encoder: Encoder,
    /// Packets that may still be sent.
    num_left: u64,
    num_sent: u64,
    ends: Instant,
    ticks: Interval,
    /// Matched and lost packets, as last written, and when that was.
    written: ((u64, u64), Instant),
    is_over: bool,
}

impl CaptureBody {
    /// Sends what `capture` takes from `device`, at most `count` packets and for `duration`.
    pub(super) fn new(
        capture: Capture,
        device: &str,
        snap_len: u32,
        (count, duration): (u64, Duration),
    ) -> Self {
        let now = Instant::now();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        info!("capture on {device} begins");
        Self {
            capture,
            encoder: Encoder::new(device, snap_len),
            num_left: count,
            num_sent: 0,
            ends: now + duration,
            ticks,
            written: ((0, 0), now),
            is_over: false,
        }
    }

    /// Encodes the packets that wait, up to the length of a piece.
    fn take_packets(&mut self) {
        let mut packets = self.capture.take();
        while self.num_left > 0 && self.encoder.len() < MAX_PIECE {
            let Some(packet) = packets.next() else { break };
            self.encoder.packet(&packet);
            self.num_left -= 1;
            self.num_sent += 1;
        }
        drop(packets);
        let now = Instant::now();
        self.is_over = self.num_left == 0 || now >= self.ends;
        let counts = self.capture.counts();
        let is_due = counts != self.written.0 && now - self.written.1 >= STATISTICS_PERIOD;
        if is_due || self.is_over {
            let is_cut = self.is_over && self.num_left > 0;
            // What still waits when the time is over is not in the file.
            let num_lost = if is_cut { counts.0 - self.num_sent } else { counts.1 };
            self.encoder.statistics(counts.0, num_lost);
            self.written = (counts, now);
        }
    }
}

impl Body for CaptureBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if !self.is_over {
                self.take_packets();
            }
            let piece = self.encoder.take();
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            ready!(self.ticks.poll_tick(context));
        }
    }
}

impl Drop for CaptureBody {
    fn drop(&mut self) {
        let lost = self.capture.counts().1;
        info!("capture ends: {} packets, {lost} more were lost", self.num_sent);
    }
}

#[cfg(test)]
mod tests;
