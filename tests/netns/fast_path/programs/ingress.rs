//! What arrives at the underlay.

use super::*;

#[test]
fn what_peers_send_arrives_as_the_workers_write_it() {
    let mut host = Host::new("bpf-in", FAST);
    let packets = [
        tcp(TO_US).build(),
        tcp(TO_US).ttl(2).tos(3).build(),
        tcp(TO_US).payload(&payload(1432)).build(),
        ping(TO_US, 56),
        udp(TO_US).build(),
        // The first and the last address of our subnet are no others.
        tcp((TO_US.0, "10.1.15.0:1")).build(),
        tcp((TO_US.0, "10.1.15.255:1")).build(),
    ];
    for packet in &packets {
        let datagram = datagram(packet);
        assert!(host.bench.is_captured(&datagram), "{packet:x?}");
        let Fate::Redirected(bytes) = host.ingress(&datagram) else { panic!("{packet:x?}") };
        assert_eq!(host.xdp(&frame(&datagram)), Fate::Marked(frame(&bytes)));
        assert_eq!(by_worker(false, packet), [bytes]);
    }
    let counters = host.bench.counters();
    let bytes: usize = packets.iter().map(Vec::len).sum();
    for (hook, num_programs) in [(counters.ingress, 1), (counters.xdp, 2)] {
        assert_eq!(hook.packets, packets.len() as u64 * num_programs);
        assert_eq!(hook.bytes, bytes as u64 * num_programs);
    }
    let from = Traffic { from_packets: 7, from_bytes: bytes as u64, ..Traffic::default() };
    assert_eq!(host.bench.traffic(3), from);
}

#[test]
fn what_arrives_and_is_odd_is_left_to_the_socket() {
    let mut host = Host::new("bpf-odd-in", FAST);
    let sound = tcp(TO_US).build();
    let from = |src: &str| datagram(&tcp((src, TO_US.1)).build());
    let summed = PacketBuilder::udp(PEER, "192.0.2.15:8285").payload(&sound).build();
    let mut wrong_sum = sound.clone();
    wrong_sum[10] ^= 1;
    let stranger = PacketBuilder::udp("192.0.2.77:8285", "192.0.2.15:8285").payload(&sound);
    let mut stranger = stranger.build();
    stranger[26..28].fill(0);
    for (reason, packet) in [
        ("outer_checksum", summed),
        ("protocol", datagram(&with_byte(sound.clone(), 9, 132))),
        ("header", datagram(&tcp(TO_US).ip_options(&[1, 1, 1, 0]).build())),
        ("header", datagram(&wrong_sum)),
        ("header", datagram(&[&sound[..], &[0]].concat())),
        ("header", datagram(&sound[..60])),
        ("header", datagram(&[&sound[..], &sound[..]].concat())),
        ("fragment", datagram(&tcp(TO_US).fragment(0x2000).build())),
        ("fragment", datagram(&tcp(TO_US).fragment(0x0010).build())),
        ("fragment", datagram(&udp(TO_US).fragment(0x2010).build())),
        ("ttl", datagram(&tcp(TO_US).ttl(1).build())),
        ("ttl", datagram(&tcp(TO_US).ttl(0).build())),
        ("other_subnet", datagram(&tcp((TO_US.0, "10.1.17.2:1")).build())),
        ("other_subnet", datagram(&tcp((TO_US.0, "10.1.255.255:1")).build())),
        ("other_subnet", datagram(&tcp((TO_US.0, "255.255.255.255:1")).build())),
        ("other_subnet", datagram(&tcp((TO_US.0, "192.0.2.15:1")).build())),
        ("no_peer", stranger),
        ("no_peer", from("10.1.15.7:1")),
        ("no_peer", from("10.1.17.7:1")),
        ("no_peer", from("127.0.0.1:1")),
        ("no_peer", from("224.0.0.1:1")),
        ("too_long", datagram(&tcp(TO_US).payload(&payload(1433)).build())),
    ] {
        let before = host.bench.counters();
        assert!(host.ingress(&packet) == Fate::Passed, "{reason}: {packet:x?}");
        assert!(host.xdp(&frame(&packet)) == Fate::Passed, "{reason}: {packet:x?}");
        // Nor by a capture, but for what it cannot see of TCP: whether it is a superpacket.
        let is_captured = host.bench.is_captured(&packet);
        assert_eq!(is_captured, reason == "too_long", "{reason}: {packet:x?}");
        let after = host.bench.counters();
        let num = after.ingress.passed[reason] - before.ingress.passed[reason];
        let num_by_xdp = after.xdp.passed[reason] - before.xdp.passed[reason];
        assert_eq!((num, num_by_xdp), (1, 2), "{reason}: {:?}", host.passed(false));
    }
    // What is none of the overlay's is not even counted.
    let before = host.bench.counters();
    let mut other_port = datagram(&sound);
    other_port[23] ^= 1;
    let odd = [(0, 0x46), (6, 0x20), (7, 1), (9, 6), (19, 16)];
    let odd = odd.map(|(at, byte)| with_byte(datagram(&sound), at, byte));
    for packet in odd.into_iter().chain([other_port, datagram(&sound)[..30].to_vec()]) {
        assert_eq!(host.ingress(&packet), Fate::Passed);
        assert_eq!(host.xdp(&frame(&packet)), Fate::Passed);
    }
    assert_eq!(host.bench.counters(), before);
}

#[test]
fn frames_of_others_and_of_other_networks_are_none_for_xdp() {
    let mut host = Host::new("bpf-eth", FAST);
    let sound = frame(&datagram(&tcp(TO_US).build()));
    assert!(matches!(host.xdp(&sound), Fate::Marked(_)));
    let before = host.bench.counters();
    // Another host's address, a group's, a tag, another protocol.
    for (at, byte) in [(5, 16), (0, 3), (2, 1), (12, 0x81), (12, 0x86), (13, 6)] {
        let mut frame = sound.clone();
        frame[at] = byte;
        assert_eq!(host.xdp(&frame), Fate::Passed, "{at}: {byte:#x}");
    }
    let tagged = [&sound[..12], &[0x81, 0, 0, 5], &sound[12..]].concat();
    for frame in [&tagged[..], &sound[..14], &sound[..61]] {
        assert_eq!(host.xdp(frame), Fate::Passed, "{frame:x?}");
    }
    assert_eq!(host.bench.counters(), before);
}

#[test]
fn long_segment_that_is_alone_by_nature_is_no_sign_of_single_frames() {
    const ACK: u8 = 0x10;
    const PSH: u8 = 0x08;
    for (peer, flags, num_frames) in [(FAST, ACK, 1), (FAST, ACK | PSH, 0), (SPARSE, ACK, 0)] {
        let mut host = Host::new("bpf-alone", peer);
        let inner = tcp(TO_US).payload(&payload(1200)).flags(flags).build();
        assert!(matches!(host.ingress(&datagram(&inner)), Fate::Redirected(_)));
        assert_eq!(host.bench.counters().frames, num_frames, "{peer}, {flags}");
    }
}
