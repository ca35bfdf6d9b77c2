//! What leaves by the overlay device.

use super::*;

/// What leaves is what the worker would have sent, in a datagram from one of our ports.
pub(super) fn assert_sent(fate: &Fate, packet: &[u8]) {
    let Fate::Redirected(bytes) = fate else { panic!("{fate:?} of {packet:x?}") };
    let (outer, inner) = bytes.split_at(OUTER_LEN);
    assert_eq!(by_worker(true, packet), [inner.to_vec()]);
    let port = u16::from_be_bytes([outer[20], outer[21]]);
    assert!(port == 8285 || SOURCE_PORTS.contains(&port), "from port {port}");
    let expected = PacketBuilder::udp(&format!("{OWN_ADDR}:{port}"), PEER);
    let mut expected = expected.id(0).fragment(0x4000).payload(inner).build();
    expected[26..28].fill(0);
    assert_eq!(outer, &expected[..OUTER_LEN]);
}

#[test]
fn what_is_understood_leaves_as_the_workers_send_them() {
    let mut host = Host::new("bpf-out", FAST);
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let packets = [
        tcp(FROM_US).build(),
        tcp(FROM_US).ttl(2).tos(3).build(),
        tcp(FROM_US).fragment(0x4000).flags(0x12).payload(&[]).build(),
        tcp(FROM_US).tcp_options(&timestamps).payload(&payload(1420)).build(),
        ping(FROM_US, 56),
        ping(FROM_US, 0),
        udp(FROM_US).build(),
        udp(FROM_US).fragment(0x4000).payload(&[]).build(),
        // The first and the last address of a subnet are no others.
        tcp(("10.1.15.0:1", "10.1.16.0:1")).build(),
        tcp(("10.1.15.255:1", "10.1.16.255:1")).build(),
    ];
    for packet in &packets {
        assert_sent(&host.egress(packet), packet);
    }
    let counters = host.bench.counters().egress;
    let bytes: usize = packets.iter().map(Vec::len).sum();
    assert_eq!((counters.packets, counters.bytes), (10, bytes as u64));
    let to = Traffic { to_packets: 10, to_bytes: bytes as u64, ..Traffic::default() };
    assert_eq!(host.bench.traffic(3), to);
    assert_eq!(host.passed(true), []);
}

#[test]
fn flows_use_several_source_ports_only_towards_peers_that_take_them() {
    for (topic, flags, several) in [("bpf-ports", FAST, true), ("bpf-port", FAST & !2, false)] {
        let mut host = Host::new(topic, flags);
        let mut ports: Vec<u16> = (1000..1050)
            .map(|port| {
                let src = format!("10.1.15.2:{port}");
                let fate = host.egress(&tcp((&src, FROM_US.1)).build());
                let Fate::Redirected(bytes) = fate else { panic!("{fate:?}") };
                u16::from_be_bytes([bytes[20], bytes[21]])
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert!(if several { ports.len() > 3 } else { ports == [8285] }, "{ports:?}");
    }
}

#[test]
fn what_is_not_understood_is_left_to_the_workers() {
    let mut host = Host::new("bpf-odd", FAST);
    let sound = tcp(FROM_US).build();
    let to = |dst: &str| tcp((FROM_US.0, dst)).payload(&payload(1300)).build();
    let from = |src: &str| tcp((src, FROM_US.1)).build();
    let mut wrong_sum = sound.clone();
    wrong_sum[10] ^= 1;
    for (reason, packet) in [
        ("protocol", with_byte(sound.clone(), 9, 132)),
        ("header", tcp(FROM_US).ip_options(&[1, 1, 1, 0]).build()),
        ("header", wrong_sum),
        ("header", [&sound[..], &[0]].concat()),
        ("header", sound[..60].to_vec()),
        ("fragment", tcp(FROM_US).fragment(0x2000).build()),
        ("fragment", tcp(FROM_US).fragment(0x0010).build()),
        ("ttl", tcp(FROM_US).ttl(1).build()),
        ("ttl", tcp(FROM_US).ttl(0).build()),
        ("no_peer", to("10.1.17.2:1")),
        ("no_peer", to("10.1.15.9:1")),
        ("no_peer", to("10.2.16.2:1")),
        ("no_peer", to("9.255.16.2:1")),
        ("no_peer", to("10.1.255.255:1")), // the network's broadcast
        ("no_peer", to("255.255.255.255:1")),
        ("no_peer", to("224.0.0.1:1")),
        // The peer's kernel would leave these to a socket.
        ("other_subnet", from("10.1.14.255:1")),
        ("other_subnet", from("10.1.16.9:1")),
        ("other_subnet", from("192.0.2.15:1")),
        ("other_subnet", from("203.0.113.7:1")),
        ("too_long", tcp(FROM_US).payload(&payload(1433)).build()),
        ("too_long", to("10.1.99.2:1")), // the route to the peer has an MTU
        ("no_route", to("10.1.98.2:1")),
        ("no_neighbour", tcp((FROM_US.0, "10.1.99.2:1")).build()),
    ] {
        let before = host.bench.counters().egress.passed[reason];
        assert!(host.egress(&packet) == Fate::Passed, "{reason}: {packet:x?}");
        let after = host.bench.counters().egress.passed[reason];
        assert_eq!(after - before, 1, "{reason}: {:?}", host.passed(true));
    }
    let mut host = Host::new("bpf-worker", WORKER);
    assert_eq!(host.egress(&sound), Fate::Passed);
    assert_eq!(host.passed(true), [("worker_peer", 1)]);
}

#[test]
fn tcp_is_left_to_the_workers_of_a_peer_where_single_frames_arrive() {
    let mut host = Host::new("bpf-sparse-peer", SPARSE);
    for packet in [udp(FROM_US).build(), ping(FROM_US, 56)] {
        assert_sent(&host.egress(&packet), &packet);
    }
    assert_eq!(host.egress(&tcp(FROM_US).build()), Fate::Passed);
    assert_eq!(host.passed(true), [("worker_peer", 1)]);
}
