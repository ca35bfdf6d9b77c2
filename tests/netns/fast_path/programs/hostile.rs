//! What an attacker, or a lease at the wrong moment, may bring about.

use super::*;

/// The packet with this many words of TCP header claimed.
fn with_data_offset(mut packet: Vec<u8>, words: u8) -> Vec<u8> {
    packet[32] = words << 4;
    packet
}

#[test]
fn superpackets_whose_segments_cannot_be_are_left_alone() {
    let mut host = Host::new("bpf-gso", FAST);
    let both = |packet: &dyn Fn((&'static str, &'static str)) -> Vec<u8>| {
        [packet(FROM_US), datagram(&packet(TO_US))]
    };
    let of_tcp = |len: usize| both(&|pair| tcp(pair).payload(&payload(len)).build());
    let of_words = |words: u8| both(&|pair| with_data_offset(tcp(pair).build(), words));
    for (what, reason, packets, gso_size) in [
        ("headers shorter than TCP's", "header", of_words(4), 50),
        ("headers and nothing else", "header", both(&|pair| tcp(pair).payload(&[]).build()), 50),
        ("ICMP", "header", both(&|pair| ping(pair, 100)), 50),
        ("long segments", "too_long", of_tcp(3000), 1433),
        ("one long segment", "too_long", of_tcp(1433), 65_535),
        // These have no type in this test, so the kernel refuses to change them.
        ("single bytes", "header", of_tcp(100), 1),
        ("one segment", "header", of_tcp(100), 65_535),
    ] {
        let before = host.bench.counters();
        let [out, in_] = &packets;
        let fates = [
            host.run(|bench| bench.egress(out, gso_size).unwrap()),
            host.run(|bench| bench.ingress(in_, gso_size).unwrap()),
        ];
        assert_eq!(fates, [Fate::Passed, Fate::Passed], "{what}");
        let after = host.bench.counters();
        let egress = after.egress.passed[reason] - before.egress.passed[reason];
        let ingress = after.ingress.passed[reason] - before.ingress.passed[reason];
        assert_eq!((egress, ingress), (1, 1), "{what}: {after:?}");
    }
    // The workers have a superpacket of UDP, and what follows it.
    let packet = udp(FROM_US).build();
    for gso_size in [50, 0] {
        let fate = host.run(|bench| bench.egress(&packet, gso_size).unwrap());
        assert_eq!(fate, Fate::Passed);
    }
    assert_eq!(host.bench.counters().egress.passed["burst"], 2);
}

#[test]
fn headers_of_other_versions_and_addresses_that_nobody_has_are_left_to_the_socket() {
    let mut host = Host::new("bpf-lies", FAST);
    let sound = tcp(TO_US).build();
    let from = |outer: &str| {
        let mut datagram = PacketBuilder::udp(outer, "192.0.2.15:8285").payload(&sound).build();
        datagram[26..28].fill(0);
        datagram
    };
    let changed = |changes: &[(usize, u8)]| {
        let mut datagram = datagram(&sound);
        changes.iter().for_each(|(at, byte)| datagram[*at] = *byte);
        write_ipv4_checksum(&mut datagram[..20]);
        datagram
    };
    for (what, reason, datagram) in [
        ("inner IPv6", "header", changed(&[(28, 0x60)])),
        ("inner version 5", "header", changed(&[(28, 0x55)])),
        ("an inner header of 60 bytes", "header", changed(&[(28, 0x4f)])),
        ("an inner header of 16 bytes", "header", changed(&[(28, 0x44)])),
        ("an outer length of 0, as of a BIG TCP packet", "header", changed(&[(2, 0), (3, 0)])),
        ("an outer length beyond the packet", "header", changed(&[(2, 0xff)])),
        ("a UDP length of 0", "header", changed(&[(24, 0), (25, 0)])),
        ("a UDP length beyond the packet", "header", changed(&[(24, 0xff)])),
        ("an inner length of the whole datagram", "header", changed(&[(31, 168)])),
        ("from our own address", "no_peer", from("192.0.2.15:8285")),
        ("from loopback", "no_peer", from("127.0.0.1:8285")),
        ("from everybody", "no_peer", from("255.255.255.255:8285")),
    ] {
        let before = host.bench.counters().ingress.passed[reason];
        assert_eq!(host.ingress(&datagram), Fate::Passed, "{what}");
        assert_eq!(host.xdp(&frame(&datagram)), Fate::Passed, "{what}");
        assert!(!host.bench.is_captured(&datagram), "{what}");
        let after = host.bench.counters().ingress.passed[reason];
        assert_eq!(after - before, 1, "{what}: {:?}", host.passed(false));
    }
}

#[test]
fn peers_word_counts_from_the_moment_that_it_changes() {
    let mut host = Host::new("bpf-flap", FAST);
    let (out, in_) = (tcp(FROM_US).build(), datagram(&tcp(TO_US).build()));
    let other = Ipv4Addr::new(192, 0, 2, 17);
    host.netns.ip(&format!("neigh add {other} lladdr 02:00:00:00:00:17 dev eth0")).unwrap();
    let number_of_nobody = (u64::from(PEER_ADDR.to_bits()) << 32) | (0xffff << 16) | FAST;
    for (what, word, sent_to, is_taken) in [
        ("a kernel peer", word(PEER_ADDR, FAST), Some(PEER_ADDR), true),
        ("its kernel takes nothing more", word(PEER_ADDR, FAST & !4), None, true),
        ("it does again", word(PEER_ADDR, FAST), Some(PEER_ADDR), true),
        ("another one has the subnet", word(other, FAST), Some(other), false),
        ("nobody has it", 0, None, false),
        ("flags of a peer that is not there", word(PEER_ADDR, FAST & !1), None, false),
        ("counters that are not there", number_of_nobody, Some(PEER_ADDR), true),
    ] {
        host.bench.set_peer(16, word);
        let to = match host.egress(&out) {
            Fate::Redirected(bytes) => {
                Some(Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]))
            }
            Fate::Passed => None,
            fate @ (Fate::Marked(_) | Fate::Other(_)) => panic!("{what}: {fate:?}"),
        };
        assert_eq!(to, sent_to, "{what}");
        let fate = host.ingress(&in_);
        assert_eq!(matches!(fate, Fate::Redirected(_)), is_taken, "{what}: {fate:?}");
        let by_xdp = host.xdp(&frame(&in_));
        assert_eq!(matches!(by_xdp, Fate::Marked(_)), is_taken, "{what}: {by_xdp:?}");
    }
}

#[test]
fn what_a_sender_mixes_into_a_flow_of_udp_leaves_it_in_order() {
    for (topic, odd) in [
        ("bpf-mix-opt", udp(FROM_US).ip_options(&[1, 1, 1, 0]).build()),
        ("bpf-mix-ttl", udp(FROM_US).ttl(1).build()),
        ("bpf-mix-len", udp(FROM_US).payload(&payload(1445)).build()),
    ] {
        let mut host = Host::new(topic, FAST);
        let plain = udp(FROM_US).build();
        // The workers have the odd one, so what follows it must not overtake it, unless much later.
        let fates = loop {
            let start = Instant::now();
            let fates = [&plain, &odd, &plain].map(|packet| host.egress(packet));
            if start.elapsed() < Duration::from_millis(200) {
                break fates;
            }
            sleep(Duration::from_millis(400));
        };
        assert!(matches!(fates[0], Fate::Redirected(_)), "{topic}: {fates:?}");
        assert_eq!(fates[1..], [Fate::Passed, Fate::Passed], "{topic}");
        let passed = host.passed(true);
        assert!(passed.contains(&("burst", 1)), "{topic}: {passed:?}");
    }
}
