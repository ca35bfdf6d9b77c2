//! Small probes that run inside a namespace: datagrams made by hand, and one HTTP request.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::netns_agent;
use crate::lab::network::daemon::HEALTH_PORT;

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

/// What the health endpoint of a node answers, asked through the hidden command of `flannel_lab`.
///
/// # Errors
/// [`LabError::Command`], also when the answer is not 200.
pub fn fetch_health(netns: &Netns, flannel_lab: &Path, path: &str) -> Result<String, LabError> {
    let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, HEALTH_PORT).to_string();
    let tool = netns.tool(flannel_lab).arg(netns_agent::COMMAND).arg("fetch").arg(from).arg(path);
    Ok(tool.run()?)
}

/// The body of an HTTP response to `GET path`.
///
/// # Errors
/// The server cannot be reached or does not answer with 200.
pub fn fetch(from: SocketAddrV4, path: &str) -> io::Result<String> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&from.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(io::Error::other(status.to_owned()));
    }
    Ok(body.to_owned())
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
