//! What an attacker, or a broken peer, sends to the port.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::thread;
use std::time::Duration;

use twill::lab::Lab;
use twill::lab::network::node::Node;
use twill::lab::traffic::probe::spray_from;
use twill::lab::traffic::tcp;

use crate::harness::{
    FLANNEL_LAB, eventually, generator, ingress_drops, overlay, pod, up, written_to_tun,
};
use crate::packets::{at, noise, seal, udp, with};

/// Garbage of one kind, and the counter that counts it.
struct Garbage {
    reason: &'static str,
    datagrams: Vec<Vec<u8>>,
}

/// Packets that must be dropped, sent from `src` and mostly to `dst`, a pod of the target.
fn all_garbage(src: Ipv4Addr, dst: Ipv4Addr, mtu: u16) -> Vec<Garbage> {
    let sound = || udp(src, dst, 100);
    let kind = |reason, datagrams| Garbage { reason, datagrams };
    let lie = |len: u16| seal(with(sound(), at::TOTAL_LEN, &len.to_be_bytes()));
    let fragment = |field: u16, payload_len: u16| {
        seal(with(udp(src, dst, payload_len), at::FRAGMENT, &field.to_be_bytes()))
    };
    let ttl = |ttl: u8| seal(with(sound(), at::TTL, &[ttl]));
    vec![
        kind("too_short", vec![vec![0x45], sound()[..19].to_vec()]),
        kind("not_ipv4", vec![with(sound(), at::VERSION, &[0x60]), vec![0x66; 40], vec![0; 60]]),
        kind("bad_header_length", vec![seal(with(sound(), at::VERSION, &[0x44]))]),
        kind("bad_total_length", vec![lie(0), lie(127), lie(129), lie(1472), lie(65_535)]),
        kind("bad_header_checksum", vec![with(sound(), at::TTL, &[63]), with(sound(), 4, &[9])]),
        kind(
            "bad_fragment",
            vec![
                fragment(0x1fff, 100), // ends past the longest packet
                fragment(0x2000, 101), // a gap before the next fragment
            ],
        ),
        kind("oversized", vec![udp(src, dst, mtu - 27), udp(src, dst, 8000)]),
        kind(
            "not_our_subnet",
            vec![
                udp(src, Ipv4Addr::new(10, 5, 255, 1), 100),
                udp(src, Ipv4Addr::LOCALHOST, 100),
                udp(src, Ipv4Addr::BROADCAST, 100),
                udp(src, Ipv4Addr::new(192, 168, 64, 11), 100),
            ],
        ),
        kind(
            "martian_source",
            vec![
                udp(Ipv4Addr::LOCALHOST, dst, 100),
                udp(Ipv4Addr::BROADCAST, dst, 100),
                udp(dst, dst, 100), // of the target's own subnet
            ],
        ),
        kind("ttl_expired", vec![ttl(0), ttl(1)]),
    ]
}

/// The port that `node` reads.
fn port_of(node: &Node) -> SocketAddrV4 {
    SocketAddrV4::new(node.addr(), 8285)
}

fn spray(lab: &Lab, datagrams: &[Vec<u8>]) {
    let (from, to) = (&lab.nodes()[2], port_of(&lab.nodes()[0]));
    spray_from(from.netns(), Path::new(FLANNEL_LAB), to, datagrams).unwrap();
}

#[test]
fn garbage_is_counted_and_never_reaches_the_device() {
    let lab = up("garbage", 3);
    let target = &lab.nodes()[0];
    let mtu = overlay(target).env.mtu;
    let before = written_to_tun(target);
    for Garbage { reason, datagrams } in all_garbage(pod(&lab, 2).addr, pod(&lab, 0).addr, mtu) {
        let dropped = ingress_drops(target, reason);
        spray(&lab, &datagrams);
        let all = dropped + datagrams.len() as u64;
        eventually(&format!("{reason} to be counted {all} times"), || {
            ingress_drops(target, reason) >= all
        });
        assert_eq!(ingress_drops(target, reason), all, "{reason}");
    }
    spray(&lab, &noise(500));
    // Once this packet is through, all earlier ones have been processed.
    spray(&lab, &[udp(pod(&lab, 2).addr, pod(&lab, 0).addr, 10)]);
    eventually("the sound packet to arrive", || written_to_tun(target) > before);
    assert_eq!(written_to_tun(target), before + 1);
}

#[test]
fn legal_traffic_does_not_mind_garbage() {
    let lab = up("noise", 3);
    let mtu = overlay(&lab.nodes()[0]).env.mtu;
    let (client, server) = (pod(&lab, 1), pod(&lab, 0));
    let mut datagrams = noise(300);
    let kinds = all_garbage(pod(&lab, 2).addr, server.addr, mtu);
    datagrams.extend(kinds.into_iter().flat_map(|kind| kind.datagrams));
    let _server = generator().serve(&server.netns, &lab.names().dir()).unwrap();
    let plan = tcp::Plan { up: 8 << 20, down: 8 << 20, time: Duration::from_secs(5) };
    thread::scope(|scope| {
        let flows = scope.spawn(|| generator().tcp(&client.netns, server.addr, plan).unwrap());
        while !flows.is_finished() {
            spray(&lab, &datagrams);
        }
        let report = flows.join().unwrap();
        assert_eq!((report.answered, report.corrupt), (report.sent, 0), "{report:?}");
    });
}
