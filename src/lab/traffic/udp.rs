//! UDP datagrams, checked at the server, sent back, and checked again.
//!
//! ```text
//! 0 kind u8 · 1..8 zero · 8 number u64, big-endian · 16.. the number's pattern
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::{Report, pattern};

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Payload lengths, taken in turn; at least [`HEADER_LEN`] bytes, longer than the MTU if wished.
    pub sizes: Vec<usize>,
    /// How many datagrams to send at most.
    pub count: u64,
    /// How long to send at most.
    pub time: Duration,
}

/// Shortest payload, in bytes.
pub const HEADER_LEN: usize = 16;

const MAX_LEN: usize = 65_507;

/// Datagrams on the way at once, and their bytes: few enough for a socket's default buffer of
/// 208 KiB (`net.core.rmem_default`), which counts more than the payload.
const WINDOW: usize = 16;
const WINDOW_BYTES: usize = 48 * 1024;

/// A datagram that is not back by then is lost.
const LOST: Duration = Duration::from_secs(3);

const WHOLE: u8 = 1;
const CORRUPT: u8 = 2;

/// Sends datagrams to the server at `to` and takes back what it returns.
///
/// # Errors
/// The socket fails; lost datagrams are no error but a count.
pub fn send(to: SocketAddrV4, plan: &Plan) -> io::Result<Report> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LOST))?;
    let start = Instant::now();
    let mut report = Report::default();
    let mut on_the_way = HashMap::new();
    let mut buffer = vec![0; MAX_LEN];
    let mut sizes = plan.sizes.iter().copied().cycle();
    loop {
        let more = report.sent < plan.count && start.elapsed() < plan.time;
        let room = on_the_way.len() < WINDOW && on_the_way.values().sum::<usize>() < WINDOW_BYTES;
        if more && room {
            let len = sizes.next().unwrap_or(HEADER_LEN).clamp(HEADER_LEN, MAX_LEN);
            report.sent += 1;
            on_the_way.insert(report.sent, len);
            write(&mut buffer[..len], WHOLE, report.sent);
            socket.send(&buffer[..len])?;
            continue;
        }
        if on_the_way.is_empty() {
            return Ok(report);
        }
        match socket.recv(&mut buffer) {
            Ok(len) => take_back(&buffer[..len], &mut on_the_way, &mut report),
            Err(error) if is_timeout(&error) => on_the_way.clear(),
            Err(error) => return Err(error),
        }
    }
}

fn take_back(datagram: &[u8], on_the_way: &mut HashMap<u64, usize>, report: &mut Report) {
    match read(datagram) {
        Some((WHOLE, number)) => {
            // A datagram that was given up as lost and a second copy are no answer.
            if on_the_way.remove(&number).is_some() {
                report.answered += 1;
                report.bytes += 2 * datagram.len() as u64;
            }
        }
        Some(_) | None => report.corrupt += 1,
    }
}

/// Sends every sound datagram back, and reports every other to its sender.
pub(super) fn answer(socket: &UdpSocket) {
    let mut buffer = vec![0; MAX_LEN];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                let mut len = len;
                if read(&buffer[..len]).is_none() {
                    len = HEADER_LEN;
                    write(&mut buffer[..len], CORRUPT, 0);
                }
                // The sender counts what does not come back.
                drop(socket.send_to(&buffer[..len], from));
            }
            // An ICMP error that belongs to an earlier answer.
            Err(error) => eprintln!("datagram: {error}"),
        }
    }
}

fn write(datagram: &mut [u8], kind: u8, number: u64) {
    let (header, payload) = datagram.split_at_mut(HEADER_LEN);
    header[..8].copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    header[8..].copy_from_slice(&number.to_be_bytes());
    pattern::fill(number, payload);
}

/// Kind and number of a sound datagram.
fn read(datagram: &[u8]) -> Option<(u8, u64)> {
    let (header, payload) = datagram.split_at_checked(HEADER_LEN)?;
    let number = u64::from_be_bytes(header[8..].try_into().ok()?);
    pattern::matches(number, payload).then_some((header[0], number))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;

    fn plan(count: u64) -> Plan {
        Plan { sizes: vec![16, 1000, 9000], count, time: Duration::from_secs(10) }
    }

    #[test]
    fn datagrams_over_loopback_come_back_whole() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.local_addr().unwrap().port());
        thread::spawn(move || answer(&server));
        let report = send(to, &plan(50)).unwrap();
        assert_eq!((report.sent, report.answered, report.corrupt), (50, 50, 0));
    }

    #[test]
    fn corrupt_and_lost_datagrams_are_counted() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.local_addr().unwrap().port());
        let answering = thread::spawn(move || {
            let mut buffer = [0; 2000];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            buffer[len - 1] ^= 1;
            server.send_to(&buffer[..len], from).unwrap();
            server // stays open, so that the second datagram is lost and not refused
        });
        let sizes = vec![100];
        let report = send(to, &Plan { sizes, ..plan(2) }).unwrap();
        drop(answering.join().unwrap());
        assert_eq!((report.sent, report.answered, report.corrupt), (2, 0, 1));
    }
}
