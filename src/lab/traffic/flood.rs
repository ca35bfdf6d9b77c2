//! UDP datagrams as fast as one core can make them, from one namespace to another.
//!
//! `UDP_SEGMENT` lets one call make dozens of datagrams, so that the sender is not what limits
//! the rate. The pod's link must cut them up again before they meet the system under test, which
//! should see single packets like those of ordinary programs: see [`cut_up`].

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::host::command::CommandError;
use crate::lab::host::netns::Netns;

/// Datagrams that are sent until this value is dropped.
#[derive(Debug)]
pub struct Flood {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    stop: AtomicBool,
}

/// IPv4 and UDP headers, in bytes: the shortest packet.
pub const HEADERS_LEN: u16 = 28;

/// Flows that take turns, so that what spreads flows over cores can do so.
const NUM_FLOWS: usize = 8;

/// Most datagrams of one call, which every kernel with `UDP_SEGMENT` takes: `UDP_MAX_SEGMENTS`,
/// include/linux/udp.h before Linux 6.9.
const MAX_SEGMENTS: usize = 64;

/// Longest payload of one call, in bytes: 65,535 less both headers.
const MAX_PAYLOAD: usize = 65_507;

/// Room for datagrams that the receiving thread has not looked at: delivered is delivered.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How often a receiver without datagrams looks whether it should stop.
const PERIOD: Duration = Duration::from_millis(50);

/// Makes the `eth0` of a pod cut what [`Flood`] sends in one call into single packets.
///
/// # Errors
/// [`CommandError`].
pub fn cut_up(pod: &Netns) -> Result<(), CommandError> {
    pod.tool("ethtool").words("-K eth0 tx-udp-segmentation off").run().map(drop)
}

impl Flood {
    /// Starts sending packets of `packet_len` bytes, headers included, from `from` to `addr`,
    /// which belongs to `to`.
    ///
    /// # Errors
    /// A socket could not be made.
    pub fn start(from: &Netns, to: &Netns, addr: Ipv4Addr, packet_len: u16) -> io::Result<Self> {
        let payload_len = packet_len.saturating_sub(HEADERS_LEN).max(1);
        let receiver = to.enter(|| UdpSocket::bind((addr, 0)))?;
        setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        receiver.set_read_timeout(Some(PERIOD))?;
        let server = receiver.local_addr()?;
        let connect = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(server)?;
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(payload_len))?;
            Ok(socket)
        };
        let senders: Vec<UdpSocket> = from.enter(|| (0..NUM_FLOWS).map(|_| connect()).collect())?;
        let mut flood = Self { counts: Arc::default(), threads: Vec::new() };
        let counts = Arc::clone(&flood.counts);
        flood.threads.push(thread::spawn(move || receive(&receiver, &counts)));
        let counts = Arc::clone(&flood.counts);
        let payload_len = usize::from(payload_len);
        flood.threads.push(thread::spawn(move || send(&senders, payload_len, &counts)));
        Ok(flood)
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// Datagrams received so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked counts no more, which shows in the figures.
            drop(thread.join());
        }
    }
}

fn send(sockets: &[UdpSocket], payload_len: usize, counts: &Counts) {
    let num = MAX_SEGMENTS.min(MAX_PAYLOAD / payload_len);
    let block = vec![0x5a; num * payload_len];
    for socket in sockets.iter().cycle() {
        if counts.stop.load(Ordering::Relaxed) {
            return;
        }
        // A full buffer or an ICMP error loses datagrams that do not count as sent.
        if socket.send(&block).is_ok() {
            counts.sent.fetch_add(num as u64, Ordering::Relaxed);
        }
    }
}

fn receive(socket: &UdpSocket, counts: &Counts) {
    let mut datagram = [0; 2048];
    while !counts.stop.load(Ordering::Relaxed) {
        if socket.recv(&mut datagram).is_ok() {
            counts.received.fetch_add(1, Ordering::Relaxed);
        }
    }
}
