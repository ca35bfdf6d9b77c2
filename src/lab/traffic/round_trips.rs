//! Requests and responses: a few bytes there and back, one after the other, by UDP or in one TCP connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::host::netns::Netns;

/// Payload of request and response, in bytes.
pub const PAYLOAD_LEN: usize = 64;

/// A request without a response by then is lost, and counts as having taken that long.
const LOST: Duration = Duration::from_millis(200);

/// Asks `addr`, which belongs to `to`, from `from` for as long as `time`; gives every round-trip
/// time, shortest first, at least one.
///
/// # Errors
/// A socket could not be made.
pub fn measure(
    from: &Netns,
    to: &Netns,
    addr: Ipv4Addr,
    time: Duration,
) -> io::Result<Vec<Duration>> {
    let server = to.enter(|| UdpSocket::bind((addr, 0)))?;
    server.set_read_timeout(Some(LOST))?;
    let server_addr = server.local_addr()?;
    let client = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.connect(server_addr)?;
    client.set_read_timeout(Some(LOST))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| answer(&server, &stop));
        let mut times = ask(&client, time);
        stop.store(true, Ordering::Relaxed);
        times.sort_unstable();
        Ok(times)
    })
}

/// A connection in which nothing comes for so long is broken.
const BROKEN: Duration = Duration::from_secs(10);

/// The same by TCP. Here nothing is lost: what TCP has to send again takes its time.
///
/// # Errors
/// The connection could not be made, or broke.
pub fn measure_tcp(
    from: &Netns,
    to: &Netns,
    addr: Ipv4Addr,
    time: Duration,
) -> io::Result<Vec<Duration>> {
    let listener = to.enter(|| TcpListener::bind((addr, 0)))?;
    let server_addr = listener.local_addr()?;
    let client = from.enter(|| TcpStream::connect_timeout(&server_addr, BROKEN))?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BROKEN))?;
    }
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer_tcp(server));
        let mut times = ask_tcp(client, time)?;
        times.sort_unstable();
        // It ends with the connection.
        drop(answering.join());
        Ok(times)
    })
}

fn ask_tcp(mut client: TcpStream, time: Duration) -> io::Result<Vec<Duration>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut bytes = [0; PAYLOAD_LEN];
    while times.is_empty() || start.elapsed() < time {
        let sent = Instant::now();
        client.write_all(&bytes)?;
        client.read_exact(&mut bytes)?;
        times.push(sent.elapsed());
    }
    Ok(times)
}

fn answer_tcp(mut server: TcpStream) {
    let mut bytes = [0; PAYLOAD_LEN];
    while server.read_exact(&mut bytes).and_then(|()| server.write_all(&bytes)).is_ok() {}
}

fn ask(client: &UdpSocket, time: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let (mut times, mut number) = (Vec::new(), 0_u64);
    while times.is_empty() || start.elapsed() < time {
        number += 1;
        let mut request = [0; PAYLOAD_LEN];
        request[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        times.push(match client.send(&request).and_then(|_| response(client, number)) {
            Ok(()) => sent.elapsed(),
            // A refusal counts as a loss; there must be a pause before the next try.
            Err(_) => {
                thread::sleep(LOST.saturating_sub(sent.elapsed()));
                LOST
            }
        });
    }
    times
}

/// Waits for the response to request `number`, past late ones to earlier requests.
fn response(client: &UdpSocket, number: u64) -> io::Result<()> {
    let mut response = [0; PAYLOAD_LEN];
    loop {
        client.recv(&mut response)?;
        if response[..8] == number.to_be_bytes() {
            return Ok(());
        }
    }
}

fn answer(server: &UdpSocket, stop: &AtomicBool) {
    let mut request = [0; PAYLOAD_LEN];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, from)) = server.recv_from(&mut request) {
            // The client counts what does not come back.
            drop(server.send_to(&request[..len], from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_in_a_connection_has_a_time_and_its_end_is_no_response() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = connect();
        let (server, _) = listener.accept().unwrap();
        let answering = thread::spawn(|| answer_tcp(server));
        assert_eq!(ask_tcp(client, Duration::ZERO).unwrap().len(), 1);
        answering.join().unwrap();
        let client = connect();
        drop(listener.accept().unwrap());
        assert!(ask_tcp(client, Duration::ZERO).is_err());
    }

    #[test]
    fn late_response_is_no_response() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let late = [7_u64.to_be_bytes().as_slice(), &[0; 56]].concat();
        server.send_to(&late, client.local_addr().unwrap()).unwrap();
        assert!(response(&client, 8).is_err());
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        server.send_to(&late, client.local_addr().unwrap()).unwrap();
        assert!(response(&client, 7).is_ok());
    }

    #[test]
    fn every_request_has_a_time() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(LOST)).unwrap();
        server.set_read_timeout(Some(LOST)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| answer(&server, &stop));
            // On a busy machine the first may be lost: the other thread does not run yet.
            let times: Vec<_> = (0..50).map(|_| ask(&client, Duration::ZERO)).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(times.iter().all(|times| times.len() == 1));
            assert!(times.iter().flatten().any(|time| *time < LOST), "{times:?}");
        });
    }
}
