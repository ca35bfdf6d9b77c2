//! [`Stream`]: numbered datagrams to a pod and back, of which each one lost is counted.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use twill::lab::network::pods::Pod;

/// Between two datagrams, and how often the echo looks whether it should end.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the last datagrams may take to come back on a busy machine.
const LAST_CALL: Duration = Duration::from_secs(20);

const MAX_LEN: usize = 1500;

/// Datagrams that flow until [`end`](Self::end).
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Tally>,
    echo: JoinHandle<()>,
}

/// Counts of the datagrams.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub lost: usize,
    pub corrupt: u64,
}

impl Stream {
    /// Starts to send from one pod to another, which returns what it gets.
    pub fn start(from: &Pod, to: &Pod) -> Self {
        let server = to.netns.enter(|| UdpSocket::bind((to.addr, 0))).unwrap();
        let addr = server.local_addr().unwrap();
        let client = from.netns.enter(|| {
            let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            client.connect(addr)?;
            Ok(client)
        });
        let client = client.unwrap();
        client.set_read_timeout(Some(PAUSE)).unwrap();
        server.set_read_timeout(Some(PAUSE)).unwrap();
        let (stop, echo_stop) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let sender_stop = Arc::clone(&stop);
        let echo_until = Arc::clone(&echo_stop);
        let echo = thread::spawn(move || echo(&server, &echo_until));
        let sender = thread::spawn(move || {
            let tally = send(&client, &sender_stop);
            echo_stop.store(true, Ordering::Relaxed);
            tally
        });
        Self { stop, sender, echo }
    }

    /// Stops it, and waits for datagrams in flight.
    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let tally = self.sender.join().unwrap();
        self.echo.join().unwrap();
        tally
    }
}

fn send(socket: &UdpSocket, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut on_the_way = HashSet::new();
    let mut buffer = [0; MAX_LEN];
    let mut last_call = None;
    loop {
        if !stop.load(Ordering::Relaxed) {
            tally.sent += 1;
            on_the_way.insert(tally.sent);
            // A refusal, which an ICMP error can cause, is a loss.
            drop(socket.send(&datagram(tally.sent)));
        } else if on_the_way.is_empty()
            || *last_call.get_or_insert(Instant::now() + LAST_CALL) < Instant::now()
        {
            return Tally { lost: on_the_way.len(), ..tally };
        }
        // Until nothing comes for the length of a pause.
        while let Some(len) = receive(socket, &mut buffer) {
            match number(&buffer[..len]) {
                Some(number) => drop(on_the_way.remove(&number)),
                None => tally.corrupt += 1,
            }
        }
    }
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; MAX_LEN];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => drop(socket.send_to(&buffer[..len], from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // An ICMP error that belongs to an earlier answer.
            Err(_) => {}
        }
    }
}

/// The length of the next datagram; `None` after a pause without one.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match socket.recv(buffer) {
            Ok(len) => return Some(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // An ICMP error to an earlier datagram.
            Err(_) => {}
        }
    }
}

/// The number, and after it so many bytes that follow from it.
fn datagram(number: u64) -> Vec<u8> {
    let len = (number * 37 % 1400) as usize;
    let bytes =
        (0_u64..).map(|at| number.wrapping_mul(31).wrapping_add(at * 7).to_le_bytes()[0]).take(len);
    number.to_be_bytes().into_iter().chain(bytes).collect()
}

/// The number of a datagram in which every byte is right.
fn number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    (datagram(number) == bytes).then_some(number)
}
