//! ICMP echo: RFC 792.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, ECHO_HEADERS_LEN, IcmpError, ProbeError, SendFault};
use crate::dataplane::io::sys::sockopt::set_int;
use crate::dataplane::packet::checksum::Sum;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ICMP_HEADER_LEN: usize = 8;
const IPV4_HEADER_LEN: usize = 20;

/// Identifiers of this process: each socket has its own.
static NEXT_ID: AtomicU16 = AtomicU16::new(0);

/// Asks for echoes.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    /// A raw socket has the IPv4 header in what it receives, and receives everybody's.
    is_raw: bool,
    id: u16,
    sequence: u16,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Whom to ask.
    pub to: Ipv4Addr,
    /// Length of the IPv4 packet, in bytes.
    pub len: u16,
    /// Its TTL, if not the host's default.
    pub ttl: Option<u8>,
    /// How long to wait for an answer.
    pub wait: Duration,
}

impl Question {
    /// A short one.
    pub const fn new(to: Ipv4Addr, wait: Duration) -> Self {
        Self { to, len: 84, ttl: None, wait }
    }
}

impl Echo {
    /// Opens a socket, from `src` if that is given. Nothing is sent in fragments.
    ///
    /// # Errors
    /// [`ProbeError`], also when this process may not.
    pub fn open(src: Option<Ipv4Addr>) -> Result<Self, ProbeError> {
        let new = |kind| Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4));
        let (socket, is_raw) = match new(Type::RAW) {
            Ok(socket) => (socket, true),
            // Allowed for the groups in net.ipv4.ping_group_range: icmp(7).
            Err(_) => match new(Type::DGRAM) {
                Ok(socket) => (socket, false),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(ProbeError::NotAllowed);
                }
                Err(error) => return Err(ProbeError::Open(error)),
            },
        };
        if let Some(src) = src {
            let src = SocketAddrV4::new(src, 0);
            socket.bind(&src.into()).map_err(ProbeError::Open)?;
        }
        // With DF, and whatever path MTU the kernel has in mind: ip(7).
        let probe = libc::IP_PMTUDISC_PROBE;
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)
            .map_err(ProbeError::Open)?;
        let pid = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
        let id = pid.wrapping_add(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Ok(Self { socket, is_raw, id, sequence: 0 })
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, question: Question) -> Answer {
        let message = self.next_request(question.len);
        let ttl = u32::from(question.ttl.unwrap_or(64));
        let start = Instant::now();
        let sent = self.socket.set_ttl_v4(ttl).and_then(|()| {
            self.socket.send_to(&message, &SocketAddrV4::new(question.to, 0).into())
        });
        match sent {
            Ok(_) => self.answer_since(start, question.to, question.wait),
            Err(error) => Answer::NotSent(SendFault::of(&error)),
        }
    }

    /// A request, for a packet of `len` bytes; its answer is the one that [`answer`](Self::answer)
    /// waits for from now on.
    pub(super) fn next_request(&mut self, len: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        request(self.id, self.sequence, len)
    }

    /// Waits for an answer to the last request.
    pub(super) fn answer(&self, to: Ipv4Addr, wait: Duration) -> Answer {
        self.answer_since(Instant::now(), to, wait)
    }

    fn answer_since(&self, start: Instant, to: Ipv4Addr, wait: Duration) -> Answer {
        let mut buffer = vec![0; 2048];
        loop {
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() {
                return Answer::Silence;
            }
            match (&self.socket).read(&mut buffer) {
                Ok(len) => {
                    let found = buffer.get(..len).and_then(|packet| self.read(packet, to));
                    match found {
                        Some(None) => return Answer::Reply { time: start.elapsed() },
                        Some(Some((by, error))) => return Answer::Refused { by, error },
                        None => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_time_out(&error) => return Answer::Silence,
                Err(error) => return Answer::NotSent(SendFault::of(&error)),
            }
        }
    }

    /// What a packet says about our last request to `to`: nothing, that it arrived, or an error.
    fn read(&self, packet: &[u8], to: Ipv4Addr) -> Option<Option<(Ipv4Addr, IcmpError)>> {
        if !self.is_raw {
            // The kernel has compared the identifier, which it chose itself.
            let is_ours =
                packet.first() == Some(&ECHO_REPLY) && u16_at(packet, 6) == Some(self.sequence);
            return is_ours.then_some(None);
        }
        let (src, _, icmp) = split(packet)?;
        let is_ours = |message: &[u8]| {
            u16_at(message, 4) == Some(self.id) && u16_at(message, 6) == Some(self.sequence)
        };
        match (icmp.first()?, icmp.get(1)?) {
            (&ECHO_REPLY, _) => (src == to && is_ours(icmp)).then_some(None),
            (&kind, &code) => {
                let error = IcmpError::of(kind, code)?;
                let (_, dst, request) = split(icmp.get(ICMP_HEADER_LEN..)?)?;
                let is_request = request.first() == Some(&ECHO_REQUEST) && is_ours(request);
                (dst == to && is_request).then_some(Some((src, error)))
            }
        }
    }
}

pub(super) fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Source, destination and what follows the header of an IPv4 packet.
fn split(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let addr = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    Some((addr(12)?, addr(16)?, packet.get(header_len..)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// An echo request which makes a packet of `len` bytes.
pub(super) fn request(id: u16, sequence: u16, len: u16) -> Vec<u8> {
    let len = usize::from(len.max(ECHO_HEADERS_LEN)) - IPV4_HEADER_LEN;
    let mut message = vec![0; len];
    message[0] = ECHO_REQUEST;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = Sum::of(&message).checksum();
    message[2..4].copy_from_slice(&checksum);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_answers_are_told_from_others() {
        let to = Ipv4Addr::new(192, 0, 2, 9);
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let echo = Echo { socket, is_raw: true, id: 7, sequence: 3 };
        let packet = |src: Ipv4Addr, dst: Ipv4Addr, icmp: &[u8]| {
            let mut packet = vec![0; 20];
            packet[0] = 0x45;
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
            [packet.as_slice(), icmp].concat()
        };
        let us = Ipv4Addr::new(192, 0, 2, 1);
        let sent = request(7, 3, 84);
        assert_eq!(sent.len(), 64);
        let mut reply = sent.clone();
        reply[0] = ECHO_REPLY;
        assert_eq!(echo.read(&packet(to, us, &reply), to), Some(None));
        assert_eq!(echo.read(&packet(us, us, &reply), to), None, "of another host");
        reply[7] = 2;
        assert_eq!(echo.read(&packet(to, us, &reply), to), None, "of an earlier request");
        assert_eq!(echo.read(&packet(to, us, &sent), to), None, "a request");
        let router = Ipv4Addr::new(192, 0, 2, 254);
        let mut error = vec![3, 13, 0, 0, 0, 0, 0, 0];
        error.extend(packet(us, to, &sent[..8]));
        let expected = (router, IcmpError::Unreachable(13));
        assert_eq!(echo.read(&packet(router, us, &error), to), Some(Some(expected)));
        for len in 0..error.len() {
            let cut = packet(router, us, &error[..len]);
            assert_eq!(echo.read(&cut, to), None, "{len}");
            assert_eq!(echo.read(&cut[..len.min(20)], to), None, "{len}");
        }
    }
}
