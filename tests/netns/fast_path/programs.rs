//! Each program on packets of all kinds, run by the kernel without a device: what it takes leaves
//! as the workers would have sent or written it, and all else is left to them. XDP takes what tc takes.

mod attach;
mod egress;
mod flows;
mod fuzz;
mod hostile;
mod ingress;

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
use twill::routes::{KernelReceive, NextHop, Prefix};

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

/// Flags of a peer's word: it is there, it takes any source port, its kernel takes TCP, and the rest.
const FAST: u64 = 15;
/// The same of one whose kernel takes ICMP and sparse UDP alone.
const SPARSE: u64 = FAST & !4;
/// The same of one whose kernel takes nothing.
const WORKER: u64 = FAST & !12;

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

    /// One on which the kernel carries what is sparse alone.
    fn of_single_frames(topic: &str) -> Self {
        let mut host = Self::new(topic, FAST);
        let sparse = || bench_of(FastConfig { bulk_tcp: false, ..config() }, FAST);
        host.bench = host.netns.enter(|| Ok(sparse())).unwrap();
        host
    }

    /// Runs a program where the host's routes are.
    fn run(&mut self, run: impl FnOnce(&mut Bench) -> Fate + Send) -> Fate {
        self.netns.enter(|| Ok(run(&mut self.bench))).unwrap()
    }

    fn egress(&mut self, packet: &[u8]) -> Fate {
        self.run(|bench| bench.egress(packet, 0).unwrap())
    }

    fn ingress(&mut self, packet: &[u8]) -> Fate {
        self.run(|bench| bench.ingress(packet, 0).unwrap())
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
        bulk_tcp: true,
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
