use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket as StdSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::RxqOvfl;
use socket2::{Domain, Type};

use super::*;
use crate::dataplane::DropReason;
use crate::dataplane::ingress::filter::IngressFilter;
use crate::dataplane::io::memory;
use crate::dataplane::io::underlay_error::Icmp;
use crate::dataplane::io::underlay_flow::PORTS_PER_CLASS;
use crate::dataplane::worker::{Budget, Worker};
use crate::routes::publish;

/// One socket on a free port of the loopback, and its address.
fn bound(long_datagrams: LongDatagrams) -> KernelUdp {
    let free = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let std::net::SocketAddr::V4(addr) = free else { panic!("not IPv4: {free}") };
    bind_group(addr, 1, Steering::Together, Offloads::AUTO, long_datagrams).unwrap().remove(0)
}

/// An address without a listener.
fn unreachable_addr() -> SocketAddrV4 {
    let closed = StdSocket::bind("127.0.0.1:0").unwrap();
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, closed.local_addr().unwrap().port())
}

fn next_error(socket: &KernelUdp) -> UnderlayError {
    let deadline = Instant::now() + Duration::from_secs(60);
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
    for source in [0, 1, 2 * PORTS_PER_CLASS] {
        let to = unreachable_addr();
        socket.send(UnderlayFlow { dst: to, source }, None, &[IoSlice::new(b"anybody?")]).unwrap();
        let sender = *to.ip();
        let icmp = Some(Icmp { kind: 3, code: 3, sender });
        let expected = UnderlayError { to, from_own_port: source != 0, too_long: None, icmp };
        assert_eq!(next_error(&socket), expected);
    }
    assert_eq!(socket.take_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn datagram_that_no_packet_holds_is_refused_whole_and_in_fragments() {
    let socket = bound(LongDatagrams::Refused);
    let flow = UnderlayFlow::shared(unreachable_addr());
    let long = vec![0; 65_508];
    for sent in [
        socket.send(flow, None, &[IoSlice::new(&long)]),
        socket.send_in_fragments(flow, &[IoSlice::new(&long)]),
    ] {
        assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[test]
fn fragments_leave_from_the_groups_port_and_nothing_arrives_where_they_leave() {
    let free = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let std::net::SocketAddr::V4(addr) = free else { panic!("not IPv4: {free}") };
    let refused = LongDatagrams::Refused;
    let group = bind_group(addr, 3, Steering::Together, Offloads::AUTO, refused).unwrap();
    let peer = StdSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let std::net::SocketAddr::V4(to) = peer.local_addr().unwrap() else { panic!() };
    for source in [0, 1] {
        let flow = UnderlayFlow { dst: to, source };
        group[1].send_in_fragments(flow, &[IoSlice::new(&[7; 60_000])]).unwrap();
        let (len, from) = peer.recv_from(&mut [0; 65_535]).unwrap();
        assert_eq!((len, from), (60_000, addr.into()));
    }
    // From many ports, so that the kernel would spread them over all sockets.
    for _ in 0..100 {
        StdSocket::bind("127.0.0.1:0").unwrap().send_to(b"anybody?", addr).unwrap();
    }
    let mut batch = RecvBatch::new(1);
    let mut num_received = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while num_received < 100 {
        num_received += group.iter().filter(|socket| socket.recv(&mut batch).is_ok()).count();
        assert!(Instant::now() < deadline, "{num_received} of 100");
    }
}

#[test]
fn nobody_else_gets_a_share_of_the_port() {
    let socket = bound(LongDatagrams::Refused);
    let addr = socket.socket.local_addr().unwrap();
    let thief = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    thief.set_reuse_address(true).unwrap();
    assert_eq!(thief.bind(&addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn buffers_exceed_the_limit_with_the_capability() {
    let limit = |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap();
        text.trim().parse::<usize>().unwrap()
    };
    let may_force = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN);
    let may_force = may_force.unwrap();
    // Half of what an int holds is the kernel's own limit: `__sock_set_rcvbuf` in net/core/sock.c.
    let asked = (2 * limit("rmem_max").max(limit("wmem_max"))).min(1 << 30) - 1;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    options::grow_buffers(&socket, asked.try_into().unwrap());
    // The kernel doubles what it is asked for, for its own bookkeeping: socket(7).
    let expected = |limit: usize| 2 * if may_force { asked } else { limit.min(asked) };
    assert_eq!(socket.recv_buffer_size().unwrap(), expected(limit("rmem_max")));
    assert_eq!(socket.send_buffer_size().unwrap(), expected(limit("wmem_max")));
}

#[test]
fn sockets_to_receive_and_to_send_have_large_buffers() {
    let socket = bound(LongDatagrams::Refused);
    let asked = usize::try_from(options::BUFFER_LEN).unwrap();
    let default = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    for socket in std::iter::once(&socket.socket).chain(socket.sources.iter()) {
        let lens = (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap());
        assert!(lens.0 > default.recv_buffer_size().unwrap(), "{lens:?}");
        assert!(lens.1 > default.send_buffer_size().unwrap(), "{lens:?}");
        assert!(lens.0.max(lens.1) <= 2 * asked, "{lens:?}");
    }
}

#[test]
fn datagrams_that_found_no_room_are_counted() {
    let socket = bound(LongDatagrams::Refused);
    let to = socket.socket.local_addr().unwrap().as_socket().unwrap();
    let (tun, _host) = memory::tun(Offloads::OFF);
    let filter = IngressFilter { subnet: "10.1.16.0/24".parse().unwrap(), tun_mtu: 1472 };
    let (_routes, subscriber) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
    let mut worker = Worker::new(tun, socket, [10, 1, 16, 0].into(), filter, subscriber);

    // Twenty times what the buffer holds.
    let sender = StdSocket::bind("127.0.0.1:0").unwrap();
    let too_long = [0; 60_000];
    for _ in 0..20 * 2 * options::BUFFER_LEN / 60_000 {
        sender.send_to(&too_long, to).unwrap();
    }
    while worker.turn(Instant::now()).unwrap() != Budget::Unused {}
    let stats = worker.stats();
    let num_sent = u64::try_from(20 * 2 * options::BUFFER_LEN / 60_000).unwrap();
    let num_received = stats.ingress.dropped(DropReason::Oversized);
    assert!((1..num_sent).contains(&num_received), "{num_received}");
    assert_eq!(stats.queue_overflows.value(), num_sent - num_received);
}

/// It kills the thread that receives a segment of this machine's TCP: see `num_overflows`.
#[test]
fn kernel_is_not_asked_for_overflows_with_each_datagram() {
    let socket = bound(LongDatagrams::Refused);
    for socket in std::iter::once(&socket.socket).chain(socket.sources.iter()) {
        assert_eq!(getsockopt(socket, RxqOvfl).unwrap(), 0);
    }
}

/// RFC 6040 §4.1, compatibility mode: marks are not passed on, so no router may set any.
#[test]
fn outer_header_is_not_ecn_capable() {
    let socket = bound(LongDatagrams::Refused);
    for socket in std::iter::once(&socket.socket).chain(socket.sources.iter()) {
        assert_eq!(socket.tos_v4().unwrap(), 0);
    }
}

#[test]
fn tcp_leaves_from_odd_ports_and_the_rest_from_even_ones() {
    let socket = bound(LongDatagrams::Refused);
    let ports = socket.sources.iter().map(|source| source.local_addr().unwrap());
    let ports: Vec<u16> = ports.map(|addr| addr.as_socket_ipv4().unwrap().port()).collect();
    let (tcp, other) = ports.split_at(PORTS_PER_CLASS.into());
    assert_eq!((tcp.len(), other.len()), (PORTS_PER_CLASS.into(), PORTS_PER_CLASS.into()));
    assert!(tcp.iter().all(|port| port % 2 == 1), "{ports:?}");
    assert!(other.iter().all(|port| port % 2 == 0), "{ports:?}");
    assert_eq!(socket.source_ports(), *tcp);
}

#[test]
fn source_port_decides_which_half_of_the_sockets_receives() {
    // An even port of the network's own: what comes from it goes to the first half all the same.
    let own = loop {
        let free = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if free.port().is_multiple_of(2) {
            break free;
        }
    };
    let std::net::SocketAddr::V4(addr) = own else { panic!("not IPv4: {own}") };
    let refused = LongDatagrams::Refused;
    let group = bind_group(addr, 6, Steering::ByClass, Offloads::AUTO, refused).unwrap();
    let sender =
        bind_group("127.0.0.2:0".parse().unwrap(), 1, Steering::Together, Offloads::AUTO, refused);
    let sender = sender.unwrap().remove(0);
    let stock = StdSocket::bind(("127.0.0.3", addr.port())).unwrap();

    let mut busy = std::collections::HashSet::new();
    for round in 0..2 {
        for source in 1..=2 * PORTS_PER_CLASS {
            let flow = UnderlayFlow { dst: addr, source };
            sender.send(flow, None, &[IoSlice::new(b"hello")]).unwrap();
            let socket = receiver(&group);
            assert_eq!(socket >= 3, source > PORTS_PER_CLASS, "{source}");
            assert!(busy.insert((source, socket)) == (round == 0), "always the same for {source}");
        }
        stock.send_to(b"hello", addr).unwrap();
        assert!(receiver(&group) < 3);
    }
    let sockets: std::collections::HashSet<usize> =
        busy.iter().map(|(_, socket)| *socket).collect();
    assert!(sockets.len() > 2, "ports spread: {busy:?}");
}

/// Which socket of the group receives the next datagram.
fn receiver(group: &[KernelUdp]) -> usize {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut batch = RecvBatch::new(1);
    loop {
        if let Some(index) = group.iter().position(|socket| socket.recv(&mut batch).is_ok()) {
            return index;
        }
        assert!(Instant::now() < deadline, "nothing came");
    }
}
