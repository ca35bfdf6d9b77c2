//! An underlay with a smaller path MTU than its links show, and overlay MTUs set by the operator.

use std::fs;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use twill::dataplane::packet::builder::PacketBuilder;
use twill::dataplane::packet::checksum::Sum;
use twill::lab::host::netns::Netns;
use twill::lab::network::daemon::Daemon;
use twill::lab::traffic::probe;
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNEL_LAB, FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, eventually, overlay, ping,
    pod, spec, up,
};

/// Routes packets between n1 and n2 through the underlay's gateway, whose MTU is `mtu` bytes; it
/// sends an ICMP error if it may not fragment.
fn narrow(lab: &Lab, mtu: u16) {
    let gateway = Netns::named(lab.names().underlay());
    gateway.sysctl("net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0").unwrap();
    gateway.sysctl("net.ipv4.conf.br0.send_redirects=0").unwrap();
    let [one, other] = [&lab.nodes()[0], &lab.nodes()[1]];
    for (from, to) in [(one, other), (other, one)] {
        from.netns().ip(&format!("route add {} via 192.168.64.1", to.addr())).unwrap();
        gateway.ip(&format!("route add {} dev br0 mtu lock {mtu}", to.addr())).unwrap();
    }
}

/// The sum of a counter over a node's workers; `pointer` leads to it from the worker's.
fn counted(lab: &Lab, node: usize, pointer: &str) -> u64 {
    let netns = lab.nodes()[node].netns();
    let json = probe::fetch_health(netns, "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    let workers = stats["dataplane"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker.pointer(pointer).unwrap().as_u64().unwrap()).sum()
}

fn lab_with(topic: &str, flags: &str) -> Lab {
    let daemon = Daemon::flanneld(FLANNELD).with(flags);
    Lab::up(LabSpec { daemon, ..spec(topic, 2) }).unwrap()
}

/// Both pods learn the path's MTU, and all data arrives.
fn assert_path_is_learned(lab: &Lab, path_mtu: u16) {
    let (from, to) = (pod(lab, 0), pod(lab, 1));
    assert_tcp_is_whole(lab, from, to, 8);
    assert!(counted(lab, 0, "/pmtu_decreases") > 0, "n1 has learned");
    assert!(counted(lab, 0, "/egress/drops/too_big_for_path") > 0, "and taught");

    let longest = path_mtu - 28 - 28;
    let (reached, said) = ping(from, &format!("-c 1 -W 2 -M do -s {longest}"), to.addr);
    assert!(reached, "{said}");
    let (reached, said) =
        ping(from, &format!("-c 2 -i 0.1 -W 2 -M do -s {}", longest + 1), to.addr);
    assert!(!reached && said.contains(&format!("mtu={}", path_mtu - 28)), "{said}");
    assert_udp_is_whole(lab, from, to, &[36, 1300, 1444, 9000]);
}

#[test]
fn underlay_that_shrinks_is_noticed_whatever_the_offloads() {
    for (topic, flags) in [
        ("shrink", ""),
        ("shrink-shared", "--source-ports=shared"),
        ("shrink-off", "--offload=off --workers=1"),
    ] {
        let lab = lab_with(topic, flags);
        narrow(&lab, 1400);
        assert_path_is_learned(&lab, 1400);
    }
}

#[test]
fn mtu_of_the_hosts_own_route_counts_for_as_long_as_it_stands() {
    let lab = up("routemtu", 2);
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    let node = &lab.nodes()[0];
    let peer = lab.nodes()[1].addr();
    let passes = |len: u16| ping(from, &format!("-c 1 -W 2 -M do -s {len}"), to.addr);
    let limit = || {
        let json = probe::fetch_health(node.netns(), "/stats").unwrap();
        let stats: Value = serde_json::from_str(&json).unwrap();
        stats.pointer("/dataplane/narrow_paths/0/mtu").and_then(Value::as_u64)
    };
    // Only the sender's host has the smaller MTU; the underlay takes the packet.
    assert!(passes(1444).0);
    node.netns().ip(&format!("route add {peer} dev eth0 mtu 1400")).unwrap();
    eventually("the limit is known", || limit() == Some(1372));
    let (reached, said) = passes(1345);
    assert!(!reached && said.contains("mtu = 1372"), "{said}");
    assert!(passes(1344).0);
    assert_udp_is_whole(&lab, from, to, &[36, 1300, 1444, 9000]);
    assert_tcp_is_whole(&lab, from, to, 8);
    node.netns().ip(&format!("route del {peer} dev eth0 mtu 1400")).unwrap();
    eventually("it is forgotten", || limit().is_none());
    from.netns.ip("route flush cache").unwrap();
    assert!(passes(1444).0);
}

/// The UDP ports that `node` sends from.
fn source_ports(lab: &Lab, node: usize) -> Vec<u16> {
    let table = lab.nodes()[node].netns().enter(|| fs::read_to_string("/proc/thread-self/net/udp"));
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.unwrap().lines().skip(1).filter_map(local).collect()
}

/// What a router would say of datagrams from n1 to n2 if its link took no more than `mtu` bytes; it
/// quotes `quoted` bytes of what is behind the outer UDP header.
fn fragmentation_needed(lab: &Lab, source_port: u16, mtu: u16, quoted: usize) -> Vec<u8> {
    let [from, to] = [0, 1].map(|node| lab.nodes()[node].addr());
    let inner = PacketBuilder::udp(
        &SocketAddrV4::new(pod(lab, 0).addr, 4000).to_string(),
        &SocketAddrV4::new(pod(lab, 1).addr, 5001).to_string(),
    );
    let outer = PacketBuilder::udp(
        &SocketAddrV4::new(from, source_port).to_string(),
        &SocketAddrV4::new(to, 8285).to_string(),
    );
    let inner = inner.payload(&[7; 1444]).build();
    let outer = outer.fragment(0x4000).payload(&inner).build();
    let [high, low] = mtu.to_be_bytes();
    let mut icmp = [&[3, 4, 0, 0, 0, 0, high, low][..], &outer[..28 + quoted]].concat();
    let checksum = Sum::of(&icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum);
    icmp
}

#[test]
fn forged_icmps_from_off_the_path_change_nothing() {
    for (topic, flags) in [("forged", ""), ("forged-shared", "--source-ports=shared")] {
        let daemon = Daemon::flanneld(FLANNELD).with(flags);
        let lab = Lab::up(LabSpec { daemon, ..spec(topic, 3) }).unwrap();
        let (from, to) = (pod(&lab, 0), pod(&lab, 1));
        assert_tcp_is_whole(&lab, from, to, 1);
        let lies: Vec<_> = source_ports(&lab, 0)
            .into_iter()
            .flat_map(|port| [0, 8, 100].map(|quoted| (port, quoted)))
            .flat_map(|(port, quoted)| [1400, 552].map(|mtu| (port, mtu, quoted)))
            .map(|(port, mtu, quoted)| fragmentation_needed(&lab, port, mtu, quoted))
            .collect();
        let target = SockAddr::from(SocketAddrV4::new(lab.nodes()[0].addr(), 0));
        let (stop, liar) = (AtomicBool::new(false), lab.nodes()[2].netns());
        thread::scope(|scope| {
            scope.spawn(|| {
                liar.enter(|| {
                    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
                    // A failed assertion below must not leave this running.
                    let end = Instant::now() + Duration::from_secs(60);
                    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                        for lie in &lies {
                            socket.send_to(lie, &target)?;
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    Ok(())
                })
                .unwrap();
            });
            eventually("n1 to refuse a lie", || counted(&lab, 0, "/pmtu_refused") > 20);
            assert_tcp_is_whole(&lab, from, to, 8);
            let (reached, said) = ping(from, "-c 20 -i 0.05 -W 2 -M do -s 1444", to.addr);
            stop.store(true, Ordering::Relaxed);
            assert!(reached && said.contains(" 0% packet loss"), "{said}");
        });
        assert!(counted(&lab, 0, "/underlay_errors") > 20);
        eventually("n1 to log it", || {
            lab.nodes()[0].log_tail(100).contains("a probe disproved an ICMP")
        });
        assert_eq!(counted(&lab, 0, "/pmtu_decreases"), 0);
        assert_eq!(counted(&lab, 0, "/egress/drops/too_big_for_path"), 0);
    }
}

#[test]
fn stock_peer_behind_a_narrow_path_gets_every_packet_whole() {
    let mut spec = spec("shrink-stock", 2);
    spec.daemons.insert("n2".to_owned(), Daemon::stock_emulator(FLANNEL_LAB));
    let lab = Lab::up(spec).unwrap();
    narrow(&lab, 1400);
    assert_path_is_learned(&lab, 1400);
}

#[test]
fn path_that_is_wide_again_carries_long_packets_within_seconds() {
    let lab = up("widens", 2);
    narrow(&lab, 1400);
    assert_path_is_learned(&lab, 1400);
    let narrow_paths = || {
        let json = probe::fetch_health(lab.nodes()[0].netns(), "/stats");
        let stats: Value = serde_json::from_str(&json.unwrap()).unwrap();
        stats["dataplane"]["narrow_paths"].clone()
    };
    let peer = lab.nodes()[1].addr();
    assert_eq!(narrow_paths(), serde_json::json!([{ "peer": peer, "mtu": 1372 }]));

    let gateway = Netns::named(lab.names().underlay());
    for node in lab.nodes() {
        gateway.ip(&format!("route replace {} dev br0", node.addr())).unwrap();
    }
    // The pod's own host has learned, too, and would try nothing longer for ten minutes.
    let (from, to) = (pod(&lab, 0), pod(&lab, 1).addr);
    let ping_long = || {
        from.netns.ip("route flush cache").unwrap();
        ping(from, "-c 1 -W 1 -M do -s 1444", to).0
    };
    eventually("the path to be wide", || ping_long() && narrow_paths() == serde_json::json!([]));
    assert!((0..20).all(|_| ping_long()));
    assert!(counted(&lab, 0, "/paths_recovered") > 0);
    let log = lab.nodes()[0].log_tail(100);
    assert!(log.contains("path MTU goes down") && log.contains("path MTU goes up"), "{log}");
}

#[test]
fn link_that_shrinks_is_noticed_by_the_refused_send() {
    // The overlay's MTU was chosen, so that it does not follow: then the host itself would answer.
    let lab = lab_with("link", "--mtu=1472");
    for node in lab.nodes() {
        node.netns().ip("link set eth0 mtu 1300").unwrap();
    }
    assert_path_is_learned(&lab, 1300);
}

#[test]
fn peer_that_is_away_costs_the_others_nothing() {
    let mut lab = up("away", 3);
    let away = pod(&lab, 2).addr;
    lab.nodes_mut()[2].kill();
    // Its host says that nobody listens at the port.
    let (reached, _) = ping(pod(&lab, 0), "-c 20 -i 0.05 -W 1", away);
    assert!(!reached);
    eventually("n1 to hear of it", || counted(&lab, 0, "/underlay_errors") > 0);
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 8);
    assert_eq!(counted(&lab, 0, "/egress/drops/send_refused"), 0);
}

#[test]
fn network_config_and_flag_choose_the_mtu() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":1300}}"#.to_owned();
    let mut spec = LabSpec { config: Some(config), ..spec("choice", 2) };
    spec.daemons.insert("n2".to_owned(), Daemon::flanneld(FLANNELD).with("--mtu=1200"));
    let lab = Lab::up(spec).unwrap();
    for (node, mtu) in lab.nodes().iter().zip([1300, 1200]) {
        let overlay = overlay(node);
        assert_eq!(overlay.env.mtu, mtu);
        let link = node.netns().ip(&format!("-o link show {}", overlay.device)).unwrap();
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
    }
}

#[test]
fn mtu_beyond_the_link_is_warned_of_and_carried_in_fragments() {
    let lab = lab_with("beyond", "--mtu=8000");
    let node = &lab.nodes()[0];
    assert_eq!(overlay(node).env.mtu, 8000);
    let log = node.log_tail(50);
    assert!(log.contains("outer datagrams will be fragmented"), "{log}");
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    let (reached, said) = ping(from, "-c 3 -i 0.1 -W 2 -M do -s 7972", to.addr);
    assert!(reached && said.contains(" 0% packet loss"), "{said}");
    assert_tcp_is_whole(&lab, from, to, 8);
    assert_udp_is_whole(&lab, from, to, &[36, 1472, 7972, 20_000]);
    assert_eq!(counted(&lab, 0, "/pmtu_decreases"), 0);
}
