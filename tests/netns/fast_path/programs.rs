//! Each program on packets of all kinds, run by the kernel without a device: what it takes leaves
//! as the workers would have sent or written it, and all else is left to them. XDP takes what tc takes.

mod attach;

use std::net::Ipv4Addr;
use std::process;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caps::{CapSet, Capability};
use ipnetwork::Ipv4Network;
use nix::net::if_::if_nametoindex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use twill::dataplane::fast_path::test_run::{Bench, Fate};
use twill::dataplane::fast_path::{
    AttachedBy, DeviceRef, FastConfig, FastPath, FastPathError, FastPathSink, Gpe, Traffic, Xdp,
    remove_left_over, remove_own_left_over,
};
use twill::dataplane::ingress::filter::IngressFilter;
use twill::dataplane::io::memory;
use twill::dataplane::offload::Offloads;
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::checksum::write_ipv4_checksum;
use twill::dataplane::packet::vnet_hdr::VnetHdr;
use twill::dataplane::worker::{Budget, Worker};
use twill::lab::host::netns::Netns;
use twill::routes::publish::{self, FibSink, RouteChange};
use twill::routes::{NextHop, Prefix};

use crate::harness::eventually;

/// The other node, which has 10.1.16.0/24; we have 10.1.15.0/24.
const PEER: &str = "192.0.2.16:8285";
const PEER_ADDR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 16);
const OWN_ADDR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 15);
const SOURCE_PORTS: [u16; 8] = [40001, 40002, 40003, 40004, 40005, 40006, 40007, 40008];
const MTU: u16 = 1472;

/// Destination, source and type of a frame to us.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 15, 2, 0, 0, 0, 0, 16, 8, 0];
const XDP: Xdp = Xdp { mac: [2, 0, 0, 0, 0, 15], mark: 0x1234_5678 };
const OUTER_LEN: usize = 28;

/// Flags of a peer's word: it is there, it takes any source port, its kernel takes packets.
const FAST: u64 = 7;

const FROM_US: (&str, &str) = ("10.1.15.2:1000", "10.1.16.2:2000");
const TO_US: (&str, &str) = ("10.1.16.2:1000", "10.1.15.2:2000");

/// Its counters have the number 3.
const fn word(peer: Ipv4Addr, flags: u64) -> u64 {
    (peer.to_bits() as u64) << 32 | 3 << 16 | flags
}

/// A host with our address on a link of its own, and the programs there.
struct Host {
    netns: Netns,
    bench: Bench,
}

impl Host {
    fn new(topic: &str, peer_flags: u64) -> Self {
        let netns = Netns::create(format!("t{}-{topic}", process::id())).unwrap();
        netns.sysctl("net.ipv4.ip_forward=1").unwrap();
        netns
            .ip_batch(&[
                "link add eth0 mtu 1500 type veth peer name wire".to_owned(),
                format!("addr add {OWN_ADDR}/24 dev eth0"),
                "link set eth0 up".to_owned(),
                "link set wire up".to_owned(),
                format!("neigh add {PEER_ADDR} lladdr 02:00:00:00:00:16 dev eth0"),
                "route add 192.0.2.99/32 dev eth0 mtu lock 1300".to_owned(),
            ])
            .unwrap();
        let bench = netns.enter(|| Ok(bench(peer_flags))).unwrap();
        Self { netns, bench }
    }

    /// Runs a program where the host's routes are.
    fn run(&mut self, run: impl FnOnce(&mut Bench) -> Fate + Send) -> Fate {
        self.netns.enter(|| Ok(run(&mut self.bench))).unwrap()
    }

    fn egress(&mut self, packet: &[u8]) -> Fate {
        self.run(|bench| bench.egress(packet).unwrap())
    }

    fn ingress(&mut self, packet: &[u8]) -> Fate {
        self.run(|bench| bench.ingress(packet).unwrap())
    }

    fn xdp(&mut self, frame: &[u8]) -> Fate {
        self.run(|bench| bench.xdp(frame).unwrap())
    }

    fn passed(&self, is_egress: bool) -> Vec<(&'static str, u64)> {
        let counters = self.bench.counters();
        let direction = if is_egress { counters.egress } else { counters.ingress };
        direction.passed.into_iter().filter(|(_, num)| *num > 0).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.netns.delete().unwrap();
    }
}

/// For programs between the devices of a [`Host`].
fn config() -> FastConfig {
    let device =
        |name: &str| DeviceRef { index: if_nametoindex(name).unwrap(), name: name.to_owned() };
    FastConfig {
        network: Ipv4Addr::new(10, 1, 0, 0),
        slot_shift: 8,
        num_slots: 256,
        own_subnet: (Ipv4Addr::new(10, 1, 15, 0), 0xffff_ff00),
        underlay_addr: OWN_ADDR,
        underlay: device("eth0"),
        overlay: device("lo"),
        overlay_mtu: MTU,
        port: 8285,
        source_ports: SOURCE_PORTS,
        gpe: None,
        xdp: None,
        attach_by: AttachedBy::best(),
    }
}

fn bench(peer_flags: u64) -> Bench {
    bench_of(config(), peer_flags)
}

fn bench_of(config: FastConfig, peer_flags: u64) -> Bench {
    let peers = [
        (16, word(PEER_ADDR, peer_flags)),
        (99, word(Ipv4Addr::new(192, 0, 2, 99), FAST)),
        (98, word(Ipv4Addr::new(203, 0, 113, 9), FAST)),
    ];
    Bench::new(FastConfig { xdp: Some(XDP), ..config }, &peers).unwrap()
}

/// What a worker, to which nothing is special, sends of this packet, or writes of this datagram.
fn by_worker(is_egress: bool, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (tun, host) = memory::tun(Offloads::OFF);
    let (udp, underlay) = memory::udp(Offloads::OFF);
    let (mut routes, subscriber) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
    let next_hop = Some(NextHop::new(PEER.parse().unwrap()));
    routes.apply(&[RouteChange { subnet: "10.1.16.0/24".parse().unwrap(), next_hop }]).unwrap();
    let accept = IngressFilter { subnet: "10.1.15.0/24".parse().unwrap(), tun_mtu: MTU.into() };
    let tun_addr = Ipv4Addr::new(10, 1, 15, 0);
    let mut worker = Worker::new(tun, udp, tun_addr, accept, subscriber);
    let bytes = Bytes::copy_from_slice(bytes);
    if is_egress {
        host.send.send((VnetHdr::default(), bytes)).unwrap();
    } else {
        underlay.send.send((None, bytes)).unwrap();
    }
    while worker.turn(Instant::now()).unwrap() == Budget::Exhausted {}
    if is_egress {
        underlay.sent.try_iter().map(|sent| sent.bytes.to_vec()).collect()
    } else {
        host.written.try_iter().map(|(_, packet)| packet.to_vec()).collect()
    }
}

/// The datagram that carries `inner` to us as a kernel peer sends it: without a checksum.
fn datagram(inner: &[u8]) -> Vec<u8> {
    let outer = PacketBuilder::udp(PEER, "192.0.2.15:8285").payload(inner);
    let mut datagram = outer.build();
    datagram[26..28].fill(0);
    datagram
}

fn frame(datagram: &[u8]) -> Vec<u8> {
    [&ETHERNET, datagram].concat()
}

fn payload(len: usize) -> Vec<u8> {
    (0..=255).cycle().take(len).collect()
}

/// An echo request of this many bytes behind its header.
fn ping((src, dst): (&str, &str), len: usize) -> Vec<u8> {
    let mut packet = PacketBuilder::udp(src, dst).payload(&payload(len)).build();
    packet[9] = 1;
    packet[20] = 8;
    write_ipv4_checksum(&mut packet[..20]);
    packet
}

fn tcp((src, dst): (&str, &str)) -> PacketBuilder {
    PacketBuilder::tcp(src, dst).payload(&payload(100))
}

fn udp((src, dst): (&str, &str)) -> PacketBuilder {
    PacketBuilder::udp(src, dst).payload(&payload(100))
}

/// Changes a byte of the IPv4 header, whose checksum is then right again.
fn with_byte(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    write_ipv4_checksum(&mut packet[..20]);
    packet
}

/// What leaves is what the worker would have sent, in a datagram from one of our ports.
fn assert_sent(fate: &Fate, packet: &[u8]) {
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
    ];
    for packet in &packets {
        assert_sent(&host.egress(packet), packet);
    }
    let counters = host.bench.counters().egress;
    let bytes: usize = packets.iter().map(Vec::len).sum();
    assert_eq!((counters.packets, counters.bytes), (8, bytes as u64));
    let to = Traffic { to_packets: 8, to_bytes: bytes as u64, ..Traffic::default() };
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
    let mut host = Host::new("bpf-worker", FAST & !4);
    assert_eq!(host.egress(&sound), Fate::Passed);
    assert_eq!(host.passed(true), [("worker_peer", 1)]);
}

#[test]
fn flow_of_udp_is_the_kernels_while_few_packets_wait_for_an_answer() {
    let mut host = Host::new("bpf-flow", FAST);
    let (request, answer) = (udp(FROM_US).build(), udp((FROM_US.1, FROM_US.0)).build());
    let by_worker = PacketBuilder::udp(PEER, "192.0.2.15:8285").payload(&answer).build();
    let fragment = udp(FROM_US).fragment(0x2000).build();
    let other = udp(("10.1.15.2:1001", FROM_US.1)).build();
    let to_other = datagram(&udp((FROM_US.1, "10.1.15.2:1001")).build());
    // All at once: a pause would be one of the flow.
    host.run(|bench| {
        go_before_others();
        // The packets that the kernel takes of so many.
        let taken = |bench: &mut Bench, num: usize, packet: &[u8]| {
            (0..num).filter(|_| bench.egress(packet).unwrap() != Fate::Passed).count()
        };
        // Each answer makes room for more, by whichever way it comes.
        for answer in [datagram(&answer), by_worker] {
            assert_eq!(taken(bench, 8, &request), 8);
            bench.ingress(&answer).unwrap();
        }
        assert_eq!(taken(bench, 20, &request), 8);
        // The workers may have some of it still, so an answer changes nothing.
        bench.ingress(&datagram(&answer)).unwrap();
        assert_eq!(taken(bench, 3, &request), 0);
        assert_eq!(bench.counters().egress.passed["burst"], 15);
        assert_eq!(taken(bench, 1, &other), 1, "another flow");
        // Silence does; fragments are none, though the workers have them.
        sleep(Duration::from_millis(400));
        assert_eq!(taken(bench, 2, &request), 2);
        for _ in 0..8 {
            assert_eq!(taken(bench, 1, &fragment), 0);
            sleep(Duration::from_millis(50));
        }
        assert_eq!(taken(bench, 1, &request), 0);
        // A flow that is always answered is a burst if there is much of it.
        let mut is_taken = || {
            let is_taken = taken(bench, 8, &other) == 8;
            assert!(matches!(bench.ingress(&to_other).unwrap(), Fate::Redirected(_)));
            is_taken
        };
        let num_taken = (0..20_000).take_while(|_| is_taken()).count();
        assert!((200..20_000).contains(&num_taken), "{num_taken}");
        Fate::Passed
    });
}

/// Gives this thread the processor before all else that a busy machine runs, if we may.
fn go_before_others() {
    let thread = nix::unistd::gettid().to_string();
    drop(process::Command::new("renice").args(["-n", "-20", "-p", &thread]).output());
}

#[test]
fn what_peers_send_arrives_as_the_workers_write_it() {
    let mut host = Host::new("bpf-in", FAST);
    let packets = [
        tcp(TO_US).build(),
        tcp(TO_US).ttl(2).tos(3).build(),
        tcp(TO_US).payload(&payload(1432)).build(),
        ping(TO_US, 56),
        udp(TO_US).build(),
    ];
    for packet in &packets {
        let datagram = datagram(packet);
        let Fate::Redirected(bytes) = host.ingress(&datagram) else { panic!("{packet:x?}") };
        assert_eq!(host.xdp(&frame(&datagram)), Fate::Marked(frame(&bytes)));
        assert_eq!(by_worker(false, packet), [bytes]);
    }
    let counters = host.bench.counters();
    let bytes: usize = packets.iter().map(Vec::len).sum();
    for (hook, num_programs) in [(counters.ingress, 1), (counters.xdp, 2)] {
        assert_eq!(hook.packets, 5 * num_programs);
        assert_eq!(hook.bytes, bytes as u64 * num_programs);
    }
    let from = Traffic { from_packets: 5, from_bytes: bytes as u64, ..Traffic::default() };
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
        ("ttl", datagram(&tcp(TO_US).ttl(1).build())),
        ("other_subnet", datagram(&tcp((TO_US.0, "10.1.17.2:1")).build())),
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
    let mut host = Host::new("bpf-fuzz", FAST);
    let netns = host.netns.clone();
    let (mut taken, mut left) = ([0, 0], 0);
    let mut run = || {
        let mut rng = StdRng::seed_from_u64(13);
        let (out, in_) = (tcp(FROM_US).build(), datagram(&tcp(TO_US).build()));
        for _ in 0..20_000 {
            let packet = mutate(&mut rng, &out, &[0]);
            match host.bench.egress(&packet).unwrap() {
                Fate::Passed => left += 1,
                fate @ (Fate::Redirected(_) | Fate::Marked(_) | Fate::Other(_)) => {
                    taken[0] += 1;
                    assert_sent(&fate, &packet);
                }
            }
            let datagram = mutate(&mut rng, &in_, &[0, OUTER_LEN]);
            let by_xdp = host.bench.xdp(&frame(&datagram)).unwrap();
            match host.bench.ingress(&datagram).unwrap() {
                Fate::Passed => {
                    left += 1;
                    assert_eq!(by_xdp, Fate::Passed, "{datagram:x?}");
                }
                Fate::Redirected(bytes) => {
                    taken[1] += 1;
                    assert_eq!(by_xdp, Fate::Marked(frame(&bytes)), "{datagram:x?}");
                    assert_eq!(by_worker(false, &datagram[OUTER_LEN..]), [bytes]);
                }
                fate @ (Fate::Marked(_) | Fate::Other(_)) => panic!("{fate:?} of {datagram:x?}"),
            }
        }
        Ok(())
    };
    netns.enter(&mut run).unwrap();
    assert!(taken.iter().all(|taken| *taken > 1000) && left > 10_000, "{taken:?}, {left}");
}
