//! A datagram to a UDP port, which a host without a receiver refuses: RFC 1122, section 4.1.3.1.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};

use super::echo::is_time_out;
use super::inner::{echo_packet, silent_packet};
use super::{Answer, Echo, IcmpError, SendFault};
use crate::dataplane::io::sys::sockopt::set_int;

/// A host limits the ICMP errors that it sends: one lost or refused is tried again.
const NUM_TRIES: u32 = 3;

/// What is known of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// The inner packet was answered: a flanneld is there and carries packets.
    Answered,
    /// An ICMP error came back.
    Refused {
        /// Who sent it, if the kernel says.
        by: Option<Ipv4Addr>,
        /// What it says.
        error: IcmpError,
    },
    /// This host did not send.
    NotSent(SendFault),
    /// Nothing: it is open and does not answer, or datagrams end on the way.
    Silent,
}

/// The ends of an inner echo: our overlay address and the peer's.
pub type Ends = (Ipv4Addr, Ipv4Addr);

/// Sends what no node minds to the port `to`, from our address `from`. With `ends` that is an inner
/// echo, whose answer comes back through the overlay; else `payload`, or an inner packet that nobody
/// answers. Waits `wait` in all.
pub fn ask_port(
    from: Ipv4Addr,
    to: SocketAddrV4,
    ends: Option<(Ends, &mut Echo)>,
    payload: Option<Vec<u8>>,
    wait: Duration,
) -> Port {
    let opened = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect(to)?;
        // Else errors that another try may overcome are not reported: ip(7).
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        Ok(socket)
    });
    let socket = match opened {
        Ok(socket) => socket,
        Err(error) => return Port::NotSent(SendFault::of(&error)),
    };
    let (payload, mut echo) = match (payload, ends) {
        (None, Some(((src, dst), echo))) => {
            let message = echo.next_request(84);
            (echo_packet(src, dst, 64, &message), Some((echo, dst)))
        }
        (Some(payload), _) => (payload, None),
        (None, None) => (silent_packet(*to.ip()), None),
    };
    for _ in 0..NUM_TRIES {
        if let Err(error) = socket.send(&payload) {
            // The error may be that of an earlier try.
            return refusal(&socket).unwrap_or_else(|| Port::NotSent(SendFault::of(&error)));
        }
        let share = wait / NUM_TRIES;
        let refused = wait_for_refusal(&socket, share / 2);
        if let Some(refused) = refused {
            return refused;
        }
        let answer = echo.as_mut().map(|(echo, dst)| echo.answer(*dst, share / 2));
        if answer.is_some_and(|answer| matches!(answer, Answer::Reply { .. })) {
            return Port::Answered;
        }
    }
    refusal(&socket).unwrap_or(Port::Silent)
}

fn wait_for_refusal(socket: &UdpSocket, wait: Duration) -> Option<Port> {
    let (start, mut buffer) = (Instant::now(), [0; 64]);
    loop {
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return None;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {}
            Err(error) if is_time_out(&error) => return None,
            Err(_) => return refusal(socket),
        }
    }
}

/// The ICMP error that the kernel keeps for the socket.
fn refusal(socket: &UdpSocket) -> Option<Port> {
    let mut buffer = [0; 128];
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
    received.cmsgs().ok()?.find_map(|message| {
        let ControlMessageOwned::Ipv4RecvErr(error, offender) = message else { return None };
        if error.ee_origin != libc::SO_EE_ORIGIN_ICMP {
            return None;
        }
        let by = offender.map(|it| Ipv4Addr::from_bits(u32::from_be(it.sin_addr.s_addr)));
        let error = IcmpError::of(error.ee_type, error.ee_code)?;
        Some(Port::Refused { by, error })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[test]
    fn closed_port_is_refused_by_its_host_and_an_open_one_is_silent() {
        let receiver = UdpSocket::bind((HERE, 0)).unwrap();
        let addr = SocketAddrV4::new(HERE, receiver.local_addr().unwrap().port());
        let wait = Duration::from_millis(60);
        assert_eq!(ask_port(HERE, addr, None, None, wait), Port::Silent);
        let mut buffer = [0; 100];
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!((len, buffer[0], buffer[8]), (84, 0x45, 1), "a packet that ends there");
        drop(receiver);
        let refused = ask_port(HERE, addr, None, None, Duration::from_secs(15));
        assert_eq!(refused, Port::Refused { by: Some(HERE), error: IcmpError::Unreachable(3) });
    }
}
