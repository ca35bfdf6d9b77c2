//! TCP flows that move as much as they can, from one namespace to another.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::lab::host::netns::Netns;

/// Flows that run until this value is dropped, each with a thread at both ends.
#[derive(Debug)]
pub struct Bulk {
    /// Both ends of every flow.
    streams: Vec<Arc<TcpStream>>,
    threads: Vec<JoinHandle<()>>,
    received: Arc<AtomicU64>,
}

/// What one call writes or reads at most, in bytes: as iperf3 does.
const BLOCK_LEN: usize = 128 << 10;

/// A flow that moves nothing for so long is broken.
const STALLED: Duration = Duration::from_secs(5);

impl Bulk {
    /// Starts `num_flows` flows from `from` to `addr`, which belongs to `to`.
    ///
    /// # Errors
    /// A connection could not be made.
    pub fn start(from: &Netns, to: &Netns, addr: Ipv4Addr, num_flows: usize) -> io::Result<Self> {
        let listener = to.enter(|| TcpListener::bind((addr, 0)))?;
        SockRef::from(&listener).set_read_timeout(Some(STALLED))?;
        let server: SocketAddr = listener.local_addr()?;
        let connect = || TcpStream::connect_timeout(&server, STALLED);
        let senders: Vec<TcpStream> = from.enter(|| (0..num_flows).map(|_| connect()).collect())?;
        let (streams, threads, received) = Default::default();
        let mut bulk = Self { streams, threads, received };
        for sender in senders {
            let (receiver, _) = listener.accept()?;
            receiver.set_read_timeout(Some(STALLED))?;
            sender.set_write_timeout(Some(STALLED))?;
            bulk.run(Arc::new(sender), Arc::new(receiver));
        }
        Ok(bulk)
    }

    fn run(&mut self, sender: Arc<TcpStream>, receiver: Arc<TcpStream>) {
        self.streams.extend([Arc::clone(&sender), Arc::clone(&receiver)]);
        let received = Arc::clone(&self.received);
        self.threads.push(thread::spawn(move || write_all(&sender)));
        self.threads.push(thread::spawn(move || read_all(&receiver, &received)));
    }

    /// Bytes that arrived so far, over all flows.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        for stream in &self.streams {
            // Fails for a stream that broke: then its thread has ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked moves no more bytes, which shows in the count.
            drop(thread.join());
        }
    }
}

fn write_all(mut stream: &TcpStream) {
    let block = vec![0x5a; BLOCK_LEN];
    while stream.write(&block).is_ok_and(|len| len > 0) {}
}

fn read_all(mut stream: &TcpStream, received: &AtomicU64) {
    let mut block = vec![0; BLOCK_LEN];
    while let Ok(len @ 1..) = stream.read(&mut block) {
        received.fetch_add(len as u64, Ordering::Relaxed);
    }
}
