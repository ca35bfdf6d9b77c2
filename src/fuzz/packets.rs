//! The data plane on bytes from anywhere, each time with offloads and without: what comes out is
//! the same, and made of sound packets.

use std::iter;
use std::net::Ipv4Addr;
use std::time::Instant;

use bytes::Bytes;

use crate::dataplane::egress::split::Split;
use crate::dataplane::ingress::filter::IngressFilter;
use crate::dataplane::io::memory;
use crate::dataplane::io::memory::{MemoryHost, MemoryTun, MemoryUdp, MemoryUnderlay, TunPacket};
use crate::dataplane::offload::Offloads;
use crate::dataplane::packet::checksum::write_ipv4_checksum;
use crate::dataplane::packet::classify;
use crate::dataplane::packet::headers::{IPV4_HEADER_LEN, ipv4, set_u16, u16_at};
use crate::dataplane::packet::vnet_hdr::{VNET_HDR_LEN, VnetHdr};
use crate::dataplane::pmtu::PathMtuCache;
use crate::dataplane::worker::{Budget, Worker};
use crate::routes::NextHop;
use crate::routes::publish::{self, FibSink, RouteChange, RoutePublisher};

/// A node with 10.1.15.0/24 whose only peer has 10.1.16.0/24.
struct Node {
    worker: Worker<MemoryTun, MemoryUdp>,
    host: MemoryHost,
    underlay: MemoryUnderlay,
    /// The worker looks at it for as long as it lives.
    _routes: RoutePublisher,
}

const MTU: u16 = 1472;
const DF: u16 = 0x4000;

/// What a TUN may hand over: records of a vnet header and a packet behind it.
///
/// # Panics
/// A datagram is no sound packet, or another one than without offloads.
pub fn egress(bytes: &[u8]) {
    let outcome = |offloads| {
        let mut node = Node::new(offloads);
        for record in records(bytes) {
            let Some((header, packet)) = record.split_first_chunk::<VNET_HDR_LEN>() else {
                continue;
            };
            if let Ok(header) = VnetHdr::decode(*header) {
                node.host.send.send((header, Bytes::copy_from_slice(packet))).unwrap();
            }
        }
        node.run();
        let sent: Vec<_> = node.underlay.sent.try_iter().collect();
        let datagrams = sent.iter().flat_map(|sent| sent.datagrams().map(<[u8]>::to_vec));
        let datagrams: Vec<Vec<u8>> = datagrams.collect();
        for datagram in &datagrams {
            let inner = classify::inner(datagram).unwrap();
            assert!(inner.dst.octets().starts_with(&[10, 1, 16]) && inner.ttl > 0, "{inner:?}");
        }
        (sorted(datagrams), sorted(node.received()))
    };
    assert_eq!(outcome(Offloads::AUTO), outcome(Offloads::OFF));
}

/// What may arrive at the port: records of a GRO size and a buffer behind it.
///
/// # Panics
/// What is written to the TUN is no sound packet, or another one than without offloads.
pub fn ingress(bytes: &[u8]) {
    let outcome = |offloads: Offloads| {
        let mut node = Node::new(offloads);
        for record in records(bytes) {
            let Some((gro_size, buffer)) = record.split_first_chunk::<2>() else { continue };
            let gro_size = usize::from(u16::from_le_bytes(*gro_size)).max(1);
            let send = |gro_size, datagrams: &[u8]| {
                node.underlay.send.send((gro_size, Bytes::copy_from_slice(datagrams))).unwrap();
            };
            if offloads.gro {
                send(Some(gro_size), buffer);
            } else {
                buffer.chunks(gro_size).for_each(|datagram| send(None, datagram));
            }
        }
        node.run();
        sorted(node.received())
    };
    assert_eq!(outcome(Offloads::AUTO), outcome(Offloads::OFF));
}

/// Records of a length in two bytes, little-endian, and so many bytes; the last may be cut short.
fn records(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    iter::from_fn(move || {
        let (len, tail) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_le_bytes(*len)).min(tail.len());
        let (record, tail) = tail.split_at(len);
        rest = tail;
        Some(record)
    })
}

impl Node {
    fn new(offloads: Offloads) -> Self {
        let (tun, host) = memory::tun(offloads);
        let (udp, underlay) = memory::udp(offloads);
        let (mut routes, subscriber) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
        let next_hop = NextHop::new("192.0.2.16:8285".parse().unwrap());
        let subnet = "10.1.16.0/24".parse().unwrap();
        routes.apply(&[RouteChange { subnet, next_hop: Some(next_hop) }]).unwrap();
        let filter = IngressFilter { subnet: "10.1.15.0/24".parse().unwrap(), tun_mtu: MTU.into() };
        let worker = Worker::new(tun, udp, Ipv4Addr::new(10, 1, 15, 0), filter, subscriber);
        let worker = worker.with_path_mtus(PathMtuCache::new(MTU));
        Self { worker, host, underlay, _routes: routes }
    }

    fn run(&mut self) {
        let now = Instant::now();
        while self.worker.turn(now).unwrap() == Budget::Exhausted {}
    }

    /// What the worker wrote to the TUN, superpackets split.
    fn received(&self) -> Vec<Vec<u8>> {
        self.host.written.try_iter().flat_map(split).map(without_free_id).collect()
    }
}

fn split((header, packet): TunPacket) -> Vec<Vec<u8>> {
    let inner = classify::inner(&packet).unwrap();
    let Some(gso) = header.gso else { return vec![packet.to_vec()] };
    let segments = Split::new(&packet, inner, gso).unwrap();
    segments.map(|segment| [segment.headers(), &packet[segment.payload.clone()]].concat()).collect()
}

/// With DF an ID means nothing (RFC 6864), so merging may count it up.
fn without_free_id(mut packet: Vec<u8>) -> Vec<u8> {
    if u16_at(&packet, ipv4::FRAGMENT) & DF != 0 {
        set_u16(&mut packet, ipv4::ID, 0);
        let header_len = usize::from(packet[0] & 0xf) * 4;
        write_ipv4_checksum(&mut packet[..header_len.max(IPV4_HEADER_LEN)]);
    }
    packet
}

/// Flows may overtake each other, and so may ICMP errors.
fn sorted(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort();
    packets
}
