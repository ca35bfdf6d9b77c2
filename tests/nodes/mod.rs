//! A node in memory: its worker, the host behind its TUN, and an underlay that the test plays.
#![allow(dead_code, reason = "not every test target needs all of it")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use bytes::Bytes;
use twill::dataplane::egress::split::Split;
use twill::dataplane::ingress::filter::IngressFilter;
use twill::dataplane::io::memory;
use twill::dataplane::io::memory::{MemoryHost, MemoryTun, MemoryUdp, MemoryUnderlay, TunPacket};
use twill::dataplane::io::underlay_error::{Quote, TooLong, UnderlayError};
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::classify;
use twill::dataplane::packet::vnet_hdr::{Gso, PartialChecksum, VnetHdr};
use twill::dataplane::pmtu::PathMtuCache;
use twill::dataplane::worker::{Budget, Worker};
use twill::dataplane::{DropReason, Offloads};
use twill::routes::NextHop;
use twill::routes::publish::{self, FibSink, RouteChange, RoutePublisher};

/// One node: its worker, the host behind its TUN, and the underlay before its socket.
pub struct Node {
    pub worker: Worker<MemoryTun, MemoryUdp>,
    pub host: MemoryHost,
    pub underlay: MemoryUnderlay,
    pub routes: RoutePublisher,
    /// When its next turns take place.
    pub now: Instant,
}

/// Node A has 10.1.15.0/24, node B 10.1.16.0/24; each knows the other.
pub fn pair(a: Offloads, b: Offloads) -> (Node, Node) {
    pair_with_mtu(1472, a, b)
}

/// The same with packets of up to `mtu` bytes.
pub fn pair_with_mtu(mtu: u16, a: Offloads, b: Offloads) -> (Node, Node) {
    (node(15, 16, mtu, a), node(16, 15, mtu, b))
}

fn node(own: u8, peer: u8, mtu: u16, offloads: Offloads) -> Node {
    let subnet = |number| format!("10.1.{number}.0/24").parse().unwrap();
    let (tun, host) = memory::tun(offloads);
    let (udp, underlay) = memory::udp(offloads);
    let (mut routes, subscriber) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
    let next_hop = NextHop::new(format!("192.0.2.{peer}:8285").parse().unwrap());
    routes.apply(&[RouteChange { subnet: subnet(peer), next_hop: Some(next_hop) }]).unwrap();
    let filter = IngressFilter { subnet: subnet(own), tun_mtu: mtu.into() };
    let tun_addr = Ipv4Addr::new(10, 1, own, 0);
    let worker = Worker::new(tun, udp, tun_addr, filter, subscriber);
    let worker = worker.with_path_mtus(PathMtuCache::new(mtu));
    Node { worker, host, underlay, routes, now: Instant::now() }
}

impl Node {
    pub fn send(&self, header: VnetHdr, packet: &[u8]) {
        self.host.send.send((header, Bytes::copy_from_slice(packet))).unwrap();
    }

    pub fn run(&mut self) {
        while self.worker.turn(self.now).unwrap() == Budget::Exhausted {}
    }

    /// The link to `to` is known to take no more than `outer_mtu` bytes: this host says so.
    pub fn narrow_path(&self, to: [u8; 4], outer_mtu: u32) {
        self.refuse(to, TooLong { outer_mtu, is_local: true, quote: Quote::EMPTY });
    }

    /// An unproven ICMP error arrives: about a datagram to `to` that begins with `quote`, it says
    /// that the path takes at most `outer_mtu` bytes.
    pub fn forge(&self, to: [u8; 4], outer_mtu: u32, quote: &[u8]) {
        self.refuse(to, TooLong { outer_mtu, is_local: false, quote: Quote::of(&[quote]) });
    }

    fn refuse(&self, to: [u8; 4], too_long: TooLong) {
        let to = SocketAddrV4::new(to.into(), 8285);
        let error =
            UnderlayError { to, from_own_port: false, too_long: Some(too_long), icmp: None };
        self.underlay.errors.send(error).unwrap();
        self.underlay.recv_refusals.push(libc::EMSGSIZE);
    }

    /// What the host behind the TUN received, superpackets split.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.host.written.try_iter().flat_map(split).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> (u64, u64) {
        let stats = self.worker.stats();
        (stats.egress.dropped(reason), stats.ingress.dropped(reason))
    }
}

pub fn split((header, packet): TunPacket) -> Vec<Vec<u8>> {
    let Some(gso) = header.gso else { return vec![packet.to_vec()] };
    let inner = classify::inner(&packet).unwrap();
    let segments = Split::new(&packet, inner, gso).unwrap();
    segments.map(|segment| [segment.headers(), &packet[segment.payload.clone()]].concat()).collect()
}

/// Carries what `from` sent to `to`, joined as `UDP_GRO` would if `to` asked for it.
pub fn carry(from: &Node, to: &Node, gro: bool) {
    for sent in from.underlay.sent.try_iter() {
        let gso_size = sent.gso_size.map(usize::from);
        if gro {
            to.underlay.send.send((gso_size, sent.bytes)).unwrap();
            continue;
        }
        for datagram in sent.datagrams() {
            to.underlay.send.send((None, Bytes::copy_from_slice(datagram))).unwrap();
        }
    }
}

pub fn tcp_superpacket(payload: &[u8]) -> (VnetHdr, Vec<u8>) {
    let builder = PacketBuilder::tcp("10.1.15.2:4000", "10.1.16.2:5001");
    let packet = builder.fragment(0x4000).payload(payload).build();
    let checksum = Some(PartialChecksum { start: 20, offset: 16 });
    (VnetHdr { gso: Some(Gso::Tcp4 { gso_size: 1400 }), checksum, header_len: 40 }, packet)
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 253).unwrap()).collect()
}
