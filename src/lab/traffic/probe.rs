//! Small probes of a namespace: datagrams made by hand, and one HTTP request.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::netns_agent;
use crate::lab::network::daemon::HEALTH_PORT;

/// How long the health endpoint may take.
const HEALTH_DEADLINE: Duration = Duration::from_secs(15);

/// Sends one UDP datagram to `to` for every line of `lines`, which is its payload in hexadecimal;
/// gives how many.
///
/// # Errors
/// A line is no hexadecimal, or the kernel refuses a datagram.
pub fn spray(to: SocketAddrV4, lines: impl BufRead) -> io::Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut num_sent = 0;
    for line in lines.lines() {
        let payload = from_hex(&line?).ok_or(io::ErrorKind::InvalidData)?;
        socket.send_to(&payload, to)?;
        num_sent += 1;
    }
    Ok(num_sent)
}

/// [`spray`]s `datagrams` from `netns` through the hidden command of `flannel_lab`.
///
/// # Errors
/// [`LabError::Command`].
pub fn spray_from(
    netns: &Netns,
    flannel_lab: &Path,
    to: SocketAddrV4,
    datagrams: &[Vec<u8>],
) -> Result<(), LabError> {
    let lines: String = datagrams.iter().map(|datagram| to_hex(datagram) + "\n").collect();
    let tool = netns.tool(flannel_lab).arg(netns_agent::COMMAND).arg("spray").arg(to.to_string());
    tool.stdin(lines).run()?;
    Ok(())
}

/// What the health endpoint of a node answers to `GET path`.
///
/// # Errors
/// [`LabError::Io`], also when the answer is not 200.
pub fn fetch_health(node: &Netns, path: &str) -> Result<String, LabError> {
    let what = || LabError::io(format!("fetch {path} of {}", node.name()));
    match ask_health(node, path).map_err(what())? {
        (200, body) => Ok(body),
        (status, _) => Err(what()(io::Error::other(format!("status {status}")))),
    }
}

/// Status and body of that answer.
///
/// # Errors
/// The node cannot be reached, or answers with something else than HTTP.
pub fn ask_health(node: &Netns, path: &str) -> io::Result<(u16, String)> {
    let (addr, deadline) = (SocketAddrV4::new(Ipv4Addr::LOCALHOST, HEALTH_PORT), HEALTH_DEADLINE);
    let mut stream = node.enter(|| TcpStream::connect_timeout(&addr.into(), deadline))?;
    stream.set_read_timeout(Some(deadline))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_reads_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("zz"), None);
        assert_eq!(from_hex(""), Some(Vec::new()));
    }

    #[test]
    fn every_line_is_one_datagram() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = SocketAddrV4::new([127, 0, 0, 1].into(), socket.local_addr().unwrap().port());
        assert_eq!(spray(to, "0a0b\n\nff".as_bytes()).unwrap(), 3);
        let mut buffer = [0; 8];
        let lens: Vec<usize> = (0..3).map(|_| socket.recv(&mut buffer).unwrap()).collect();
        assert_eq!((lens, buffer[0]), (vec![2, 0, 1], 0xff));
    }
}
