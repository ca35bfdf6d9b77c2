//! Packets with a few bytes changed.

use super::egress::assert_sent;
use super::*;

/// Bytes that decide something in a header.
const DECISIVE: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x45, 6, 17, 16, 15];

/// A packet with a few bytes changed or its end cut off; most have right checksums.
fn mutate(rng: &mut StdRng, packet: &[u8], headers: &[usize]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..bytes.len().min(70));
        match rng.random_range(0..8) {
            0 => bytes.truncate(at.max(20)),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = rng.random(),
            3 => bytes.push(rng.random()),
            _ => bytes[at] = *DECISIVE.choose(rng).unwrap(),
        }
    }
    if rng.random_range(0..4) > 0 {
        for &at in headers {
            if bytes.len() >= at + 20 {
                write_ipv4_checksum(&mut bytes[at..at + 20]);
            }
        }
    }
    bytes
}

#[test]
fn changed_packets_have_the_fate_that_the_workers_give_them_or_are_left_to_them() {
    let [to_peer, from_peer] = fates(Host::new("bpf-fuzz", FAST));
    assert!(to_peer > 1000 && from_peer > 1000, "{to_peer}, {from_peer}");
    // Most of them are of one flow, which is a burst.
    let [to_peer, from_peer] = fates(Host::of_single_frames("bpf-fuzz-few"));
    assert!(to_peer > 50 && from_peer > 1000, "{to_peer}, {from_peer}");
}

/// How many of the packets that leave, and of those that arrive, the kernel takes on this host.
fn fates(mut host: Host) -> [u32; 2] {
    let netns = host.netns.clone();
    let (mut taken, mut left) = ([0, 0], 0);
    let mut run = || {
        let mut rng = StdRng::seed_from_u64(13);
        let (out, in_) = (tcp(FROM_US).build(), datagram(&tcp(TO_US).build()));
        for _ in 0..20_000 {
            let packet = mutate(&mut rng, &out, &[0]);
            match host.bench.egress(&packet, 0).unwrap() {
                Fate::Passed => left += 1,
                fate @ (Fate::Redirected(_) | Fate::Marked(_) | Fate::Other(_)) => {
                    taken[0] += 1;
                    assert_sent(&fate, &packet);
                }
            }
            let datagram = mutate(&mut rng, &in_, &[0, OUTER_LEN]);
            let by_xdp = host.bench.xdp(&frame(&datagram)).unwrap();
            let is_captured = host.bench.is_captured(&datagram);
            match host.bench.ingress(&datagram, 0).unwrap() {
                Fate::Passed => {
                    left += 1;
                    assert!(!is_captured, "{datagram:x?}");
                    assert_eq!(by_xdp, Fate::Passed, "{datagram:x?}");
                }
                Fate::Redirected(bytes) => {
                    taken[1] += 1;
                    assert!(is_captured, "{datagram:x?}");
                    assert_eq!(by_xdp, Fate::Marked(frame(&bytes)), "{datagram:x?}");
                    assert_eq!(by_worker(false, &datagram[OUTER_LEN..]), [bytes]);
                }
                fate @ (Fate::Marked(_) | Fate::Other(_)) => panic!("{fate:?} of {datagram:x?}"),
            }
        }
        Ok(())
    };
    netns.enter(&mut run).unwrap();
    assert!(left > 10_000, "{left}");
    taken
}
