//! TCP flows, checked in both directions at once.
//!
//! ```text
//! request   0 seed u64 · 8 up u64 · 16 down u64      all big-endian, from the client
//! up        `up` bytes of the seed's pattern         from the client
//! down      `down` bytes of seed + 1's pattern       from the server, at the same time
//! verdict   corrupt blocks of `up`, u64              from the server, last
//! ```

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Report, pattern};

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bytes to the server in each flow.
    pub up: u64,
    /// Bytes from the server in each flow.
    pub down: u64,
    /// How long to start new flows, one after the other; there is always a first.
    pub time: Duration,
}

const BLOCK_LEN: usize = 64 * 1024;

/// A flow that moves nothing for so long is broken.
const STALLED: Duration = Duration::from_secs(30);

/// Runs flows to the server at `to`, one after the other.
///
/// # Errors
/// The first flow that breaks or stalls.
pub fn send(to: SocketAddrV4, plan: Plan) -> io::Result<Report> {
    let start = Instant::now();
    let mut report = Report::default();
    while report.sent == 0 || start.elapsed() < plan.time {
        report.sent += 1;
        let corrupt = flow(to, report.sent << 32, plan)?;
        report.answered += u64::from(corrupt == 0);
        report.corrupt += corrupt;
        report.bytes += plan.up + plan.down;
    }
    Ok(report)
}

/// One flow; the number of corrupt blocks at either end.
fn flow(to: SocketAddrV4, seed: u64, plan: Plan) -> io::Result<u64> {
    let stream = TcpStream::connect_timeout(&to.into(), STALLED)?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))?;
    let request = [seed, plan.up, plan.down].map(u64::to_be_bytes).concat();
    (&stream).write_all(&request)?;
    let corrupt_down = both(&stream, (seed, plan.up), (seed + 1, plan.down))?;
    let mut verdict = [0; 8];
    (&stream).read_exact(&mut verdict)?;
    Ok(corrupt_down + u64::from_be_bytes(verdict))
}

/// The server's side of a flow.
pub(super) fn answer(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))?;
    let mut request = [[0; 8]; 3];
    for field in &mut request {
        (&*stream).read_exact(field)?;
    }
    let [seed, up, down] = request.map(u64::from_be_bytes);
    let corrupt = both(stream, (seed.wrapping_add(1), down), (seed, up))?;
    (&*stream).write_all(&corrupt.to_be_bytes())
}

/// Writes one pattern while it reads the other; the number of corrupt blocks read.
fn both(stream: &TcpStream, write: (u64, u64), read: (u64, u64)) -> io::Result<u64> {
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_pattern(stream, write));
        let corrupt = read_pattern(stream, read);
        match writer.join() {
            Ok(written) => written.and(corrupt),
            Err(_) => Err(io::Error::other("the writing thread panicked")),
        }
    })
}

fn write_pattern(mut stream: &TcpStream, (seed, len): (u64, u64)) -> io::Result<()> {
    let mut block = vec![0; BLOCK_LEN];
    blocks(seed, len).try_for_each(|(seed, len)| {
        pattern::fill(seed, &mut block[..len]);
        stream.write_all(&block[..len])
    })
}

fn read_pattern(mut stream: &TcpStream, (seed, len): (u64, u64)) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_LEN];
    let mut corrupt = 0;
    for (seed, len) in blocks(seed, len) {
        stream.read_exact(&mut block[..len])?;
        corrupt += u64::from(!pattern::matches(seed, &block[..len]));
    }
    Ok(corrupt)
}

/// Seed and length of every block of a pattern of `len` bytes.
fn blocks(seed: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..len).step_by(BLOCK_LEN).enumerate().map(move |(index, at)| {
        let block_len = usize::try_from(len - at).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
        (seed.rotate_left(17).wrapping_add(index as u64), block_len)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn flow_over_loopback_is_whole_in_both_directions() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let server = thread::spawn(move || answer(&listener.accept().unwrap().0));
        let plan = Plan { up: 3 * BLOCK_LEN as u64 + 7, down: 1, time: Duration::ZERO };
        let report = send(to, plan).unwrap();
        server.join().unwrap().unwrap();
        assert_eq!((report.sent, report.answered, report.corrupt), (1, 1, 0));
    }

    #[test]
    fn blocks_cover_the_whole_length() {
        let lens: Vec<usize> = blocks(1, BLOCK_LEN as u64 + 1).map(|(_, len)| len).collect();
        assert_eq!(lens, [BLOCK_LEN, 1]);
        assert_eq!(blocks(1, 0).count(), 0);
    }
}
