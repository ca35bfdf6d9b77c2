use std::net::UdpSocket as StdSocket;
use std::time::{Duration, Instant};

use super::*;

/// One socket on a free port of the loopback, and its address.
fn bound(long_datagrams: LongDatagrams) -> KernelUdp {
    let free = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let std::net::SocketAddr::V4(addr) = free else { panic!("not IPv4: {free}") };
    bind_group(addr, 1, Offloads::AUTO, long_datagrams).unwrap().remove(0)
}

/// An address at which nobody listens.
fn nobody() -> SocketAddrV4 {
    let closed = StdSocket::bind("127.0.0.1:0").unwrap();
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, closed.local_addr().unwrap().port())
}

fn next_error(socket: &KernelUdp) -> UnderlayError {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match socket.take_error() {
            Ok(error) => return error,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < deadline, "no error came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn icmp_about_a_datagram_comes_back_from_every_source_port() {
    let socket = bound(LongDatagrams::Refused);
    assert_eq!(socket.take_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    for source in [0, 1, NUM_SOURCE_PORTS] {
        let to = nobody();
        socket.send(Path { to, source }, None, &[IoSlice::new(b"anybody?")]).unwrap();
        assert_eq!(next_error(&socket), UnderlayError { to, is_too_long: false });
    }
    assert_eq!(socket.take_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn datagram_that_no_packet_holds_is_refused_whole_and_in_fragments() {
    let socket = bound(LongDatagrams::Refused);
    let path = Path::shared(nobody());
    let long = vec![0; 65_508];
    for sent in [
        socket.send(path, None, &[IoSlice::new(&long)]),
        socket.send_in_fragments(path, &[IoSlice::new(&long)]),
    ] {
        assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[test]
fn path_over_the_loopback_takes_its_mtu() {
    let socket = bound(LongDatagrams::Refused);
    let mtu = socket.path_mtu(Ipv4Addr::LOCALHOST).unwrap();
    assert!(mtu >= 65_535, "{mtu}");
}
