//! Changes of the host's network while packets flow: deleted or changed devices, addresses, routes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use tokio::time::timeout;
use twill::control::host::net;
use twill::control::host::net::{HostChange, HostNet, default_routes};
use twill::dataplane::Offloads;
use twill::dataplane::io::tun::TunConfig;
use twill::lab::host::netns::Netns;
use twill::lab::network::node::Node;
use twill::lab::traffic::probe;
use twill::lab::traffic::tcp;
use twill::lab::{Lab, LabSpec};

use crate::harness::{eventually, failing_checks, generator, overlay, ping, pod, spec, up};

/// Arguments of `ip`, and the daemon's log line after it. Each runs twice.
const ACCIDENTS: [(&str, &str); 6] = [
    ("link del flannel0", "overlay device flannel0 disappeared; recreating it"),
    ("link set flannel0 down", "it was down; restored"),
    ("route del 10.5.0.0/16 dev flannel0", "it had lost the route to the network"),
    ("addr flush dev flannel0", "it had lost its address"),
    ("route replace 10.5.0.0/16 dev lo", "it had lost the route to the network"),
    ("link set flannel0 mtu 1200", "it had another MTU"),
];

#[test]
fn what_somebody_does_to_the_device_is_put_right_and_connections_go_on() {
    let lab = up("accidents", 2);
    let node = &lab.nodes()[0];
    let sound = device(node);
    let _server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
    let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
    // One connection: a new one may well be refused with an ICMP while there is no route.
    let plan = tcp::Plan { up: 512 << 20, down: 1 << 20, time: Duration::ZERO };
    let flows = thread::spawn(move || generator().tcp(&client, addr, plan));
    let mut carried = packets(node);
    for (accident, said) in ACCIDENTS.repeat(2) {
        node.netns().ip(accident).unwrap();
        eventually(accident, || device(node) == sound);
        eventually("packets go on", || ping(pod(&lab, 0), "-c 1 -W 1", addr).0);
        eventually(said, || node.log_tail(1000).contains(said));
        let before = std::mem::replace(&mut carried, packets(node));
        assert!(before < carried, "{accident}: counters never go back: {before}, {carried}");
    }
    let report = flows.join().unwrap().unwrap();
    assert_eq!((report.answered, report.corrupt), (1, 0), "{report:?}");
}

#[test]
fn external_interface_is_followed_and_its_losses_are_told() {
    let lab = up("underlay", 2);
    let node = &lab.nodes()[0];
    let reaches = |args: &str| ping(pod(&lab, 0), args, pod(&lab, 1).addr).0;
    let repairs = || node.log_tail(1000).matches("underlay: ok again").count();
    let losses = [
        ("link set eth0 down", "interface eth0 is down", "link set eth0 up"),
        (
            "addr del 192.168.64.11/24 dev eth0",
            "address 192.168.64.11 of interface eth0 is gone",
            "addr add 192.168.64.11/24 dev eth0",
        ),
    ];
    for (repaired, (loss, said, repair)) in losses.into_iter().enumerate() {
        node.netns().ip(loss).unwrap();
        eventually(said, || node.log_tail(1000).contains(said));
        let fails = |name: &str| failing_checks(node).iter().any(|check| check == name);
        eventually("the node is not ready", || fails("underlay"));
        assert!(!reaches("-c 1 -W 1"), "{loss}");
        node.netns().ip(repair).unwrap();
        eventually("the repair is logged", || repairs() == repaired + 1);
        eventually("the node is ready again", || failing_checks(node).is_empty());
        eventually("packets go on", || reaches("-c 1 -W 1"));
    }

    for (link_mtu, tun_mtu) in [(1300, 1272), (1500, 1472), (2000, 1472)] {
        node.netns().ip(&format!("link set eth0 mtu {link_mtu}")).unwrap();
        eventually("the device follows", || mtu(node) == tun_mtu);
        let said = format!("interface eth0 has MTU {link_mtu} now");
        eventually(&said, || node.log_tail(1000).contains(&said));
        assert!(reaches(&format!("-c 1 -W 2 -M dont -s {}", tun_mtu - 28)), "{link_mtu}");
    }
}

/// As DHCP does: the old address is replaced by another.
#[test]
fn address_that_changes_is_followed_by_node_and_peers_and_the_subnet_stays() {
    let mut lab = up("renumber", 2);
    let before = overlay(&lab.nodes()[0]).env.key();
    let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
    // Packets flow all the time.
    let traffic = thread::spawn(move || {
        let ping = client.tool("ping").words("-n -q -i 0.01 -w 12").arg(addr.to_string());
        ping.output().unwrap().stdout
    });
    let moved = |lab: &Lab| lab.nodes()[0].log_tail(1000).matches("using 192.168.64.").count();

    // Missing for a moment, as when a network daemon restarts: the node keeps its address.
    let for_a_moment = ["addr del 192.168.64.11/24 dev eth0", "addr add 192.168.64.11/24 dev eth0"];
    lab.nodes()[0].netns().ip_batch(&for_a_moment.map(str::to_owned)).unwrap();
    eventually("packets go on", || ping(pod(&lab, 0), "-c 1 -W 1", addr).0);
    assert_eq!(moved(&lab), 0);

    for (old, new) in [(11, 77), (77, 78)] {
        let netns = lab.nodes()[0].netns().clone();
        netns.ip(&format!("addr del 192.168.64.{old}/24 dev eth0")).unwrap();
        netns.ip(&format!("addr add 192.168.64.{new}/24 dev eth0")).unwrap();
        let public_ip = format!("\"192.168.64.{new}\"");
        eventually("the lease says so", || {
            let leases = lab.etcd().leases().unwrap();
            assert_eq!(leases.len(), 2, "{leases:?}");
            leases.iter().any(|(key, value)| *key == before && value.contains(&public_ip))
        });
        eventually("packets go on", || ping(pod(&lab, 0), "-c 1 -W 1", addr).0);
        eventually("and back", || ping(pod(&lab, 1), "-c 1 -W 1", pod(&lab, 0).addr).0);
        eventually("the node is ready", || failing_checks(&lab.nodes()[0]).is_empty());
    }
    assert_eq!(moved(&lab), 2);
    let summary = traffic.join().unwrap();
    assert!(summary.contains(" received"), "{summary}");
    crate::harness::assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    let state = lab.nodes()[0].subnet_file().with_extension("state.json");
    eventually("the state file says so", || {
        std::fs::read_to_string(&state).is_ok_and(|state| state.contains("192.168.64.78"))
    });
}

/// `--public-ip` fixes the address that peers send to, not the one that we listen on.
#[test]
fn public_ip_of_the_operator_stays_when_the_address_changes() {
    let spec = spec("named", 2);
    let daemons = [("n1".to_owned(), spec.daemon.clone().with("-public-ip=192.168.64.11"))];
    let mut lab = Lab::up(LabSpec { daemons: daemons.into(), ..spec }).unwrap();
    let netns = lab.nodes()[0].netns().clone();
    netns.ip("addr add 192.168.64.77/24 dev eth0").unwrap();
    netns.sysctl("net.ipv4.conf.eth0.promote_secondaries=1").unwrap();
    netns.ip("addr del 192.168.64.11/24 dev eth0").unwrap();
    let said = "using 192.168.64.77 of eth0 from now on, peers send to 192.168.64.11";
    eventually(said, || lab.nodes()[0].log_tail(1000).contains(said));
    let bound = || netns.tool("ss").words("-ulnH sport = :8285").run().unwrap();
    eventually("it is bound there", || bound().contains("192.168.64.77:8285"));
    let leases = lab.etcd().leases().unwrap();
    assert!(leases.iter().any(|(_, value)| value.contains("192.168.64.11")), "{leases:?}");
}

/// Without the address no socket can be bound, and a device without sockets is useless.
#[test]
fn device_is_not_made_again_and_again_while_the_address_is_gone() {
    let lab = up("nospin", 2);
    let node = &lab.nodes()[0];
    let index = || link(node, "flannel0")["ifindex"].as_u64();
    let before = index().unwrap();
    let commands = ["addr del 192.168.64.11/24 dev eth0", "link del flannel0"];
    node.netns().ip_batch(&commands.map(str::to_owned)).unwrap();
    let fails = |name: &str| failing_checks(node).iter().any(|check| check == name);
    eventually("the node is not ready", || fails("device") && fails("underlay"));
    ping(pod(&lab, 0), "-c 4 -i 1 -W 1", pod(&lab, 1).addr);
    assert_eq!(index(), None);
    let repaired = std::time::Instant::now();
    node.netns().ip("addr add 192.168.64.11/24 dev eth0").unwrap();
    eventually("the device is back", || index().is_some());
    assert!(repaired.elapsed() < Duration::from_secs(30), "at once: {:?}", repaired.elapsed());
    let made = index().unwrap() - before;
    assert!(made <= 5, "{made} devices were made");
    eventually("packets go on", || ping(pod(&lab, 0), "-c 1 -W 1", pod(&lab, 1).addr).0);
}

/// A program that deletes the device each time does not cause a busy loop.
#[test]
fn device_that_somebody_deletes_each_time_is_made_once_a_second() {
    let lab = up("contest", 1);
    let node = &lab.nodes()[0];
    let index = || link(node, "flannel0")["ifindex"].as_u64();
    let before = index().unwrap();
    let start = std::time::Instant::now();
    let script = "for i in $(seq 500); do ip link del flannel0 2>/dev/null; sleep 0.01; done";
    node.netns().tool("sh").words("-c").arg(script).run().unwrap();
    eventually("it is there in the end", || index().is_some());
    // Each takes two numbers: the other is that of flannel0.gpe.
    let (made, most) = (index().unwrap() - before, 2 * (24 + start.elapsed().as_secs()));
    assert!((1..=most).contains(&made), "{made} numbers were used, {most} at most");
}

/// 100,000 routes, and containers that come and go.
#[test]
fn large_host_costs_nothing_and_its_own_routes_are_kept_all_the_same() {
    let lab = up("manyroutes", 1);
    let node = &lab.nodes()[0];
    let routes: Vec<String> = (0..100_000u32)
        .map(|n| {
            format!("route add blackhole 100.{}.{}.{}/32", 64 + (n >> 16), n >> 8 & 255, n & 255)
        })
        // An address of the Network that another route leads to.
        .chain(["route add blackhole 10.5.255.255/32".to_owned()])
        .collect();
    node.netns().ip_batch(&routes).unwrap();
    let pid = flanneld(node);
    let settled = || {
        let before = ticks(pid);
        thread::sleep(Duration::from_millis(500));
        ticks(pid) <= before + 2
    };
    eventually("it has taken note of the routes", settled);
    // A start without --iface reads all of them.
    node.netns().ip("route add default via 192.168.64.1 metric 50").unwrap();
    let defaults = node.netns().enter(|| Ok(default_routes())).unwrap().unwrap();
    let read: Vec<_> = defaults.iter().map(|route| (route.dst.prefix(), route.metric)).collect();
    assert_eq!(read, [(0, 0), (0, 50)]);
    let (cpu, memory) = (ticks(pid), resident(pid));
    for n in 0..20 {
        node.netns().ip(&format!("link add c{n} type veth peer name d{n}")).unwrap();
        node.netns().ip(&format!("link set c{n} up")).unwrap();
        node.netns().ip(&format!("addr add 10.99.{n}.1/24 dev c{n}")).unwrap();
        node.netns().ip(&format!("link del c{n}")).unwrap();
        thread::sleep(Duration::from_millis(60)); // so that each is a change of its own
    }
    let (cpu, memory) = (ticks(pid) - cpu, resident(pid).saturating_sub(memory));
    // To read all routes again takes a tenth of a second or more, each time.
    assert!(cpu <= 100, "{cpu} hundredths of a second of CPU time");
    assert!(memory <= 4096, "{memory} KiB more");
    for accident in ["route replace 10.5.0.0/16 dev lo", "route del 10.5.0.0/16 dev flannel0"] {
        node.netns().ip(accident).unwrap();
        eventually(accident, || {
            node.netns().ip("-4 route show 10.5.0.0/16").unwrap().contains("dev flannel0")
        });
    }
}

/// The kernel reports more changes than a busy control thread reads, and drops the rest.
#[test]
fn flood_of_changes_leaves_no_request_unanswered() {
    let host = Netns::create(format!("t{}-deluge", std::process::id())).unwrap();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, net, mut changes) = net::watch().unwrap();
            tokio::spawn(connection);
            let (mut failed, mut has_missed) = (Vec::new(), false);
            // Longer and longer until the flood is too much for it: a slow machine has a slow flood.
            for round in 0.. {
                if round == 1000 || round > 100 && has_missed {
                    break;
                }
                let busy = Duration::from_millis(20 + round / 4);
                thread::sleep(busy); // with something else
                let answer = timeout(Duration::from_secs(30), net.link("lo")).await;
                if !matches!(answer, Ok(Ok(_))) {
                    failed.push(format!("{answer:?}"));
                }
                while let Some(Some(change)) = changes.next().now_or_never() {
                    has_missed |= change == HostChange::Missed;
                }
            }
            Ok((failed, has_missed))
        })
    };
    let is_over = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let (host, is_over) = (&host, &is_over);
        scope.spawn(move || {
            let both = |n: u32| {
                let range = format!("100.64.{}.{}/32", n >> 8, n & 255);
                [format!("route add blackhole {range}"), format!("route del blackhole {range}")]
            };
            let storm: Vec<String> = (0..20_000).flat_map(both).collect();
            while !is_over.load(Ordering::Relaxed) {
                host.ip_batch(&storm).unwrap();
            }
        });
        let asked = host.enter(ask);
        is_over.store(true, Ordering::Relaxed);
        asked
    });
    host.delete().unwrap();
    let (failed, has_missed) = asked.unwrap();
    assert_eq!(failed, Vec::<String>::new());
    assert!(has_missed, "there was no flood");
}

#[test]
fn device_that_exists_is_not_attached_to_and_an_address_that_is_not_ours_is_told() {
    let lab = up("others", 1);
    let node = &lab.nodes()[0];
    let again = TunConfig { name: "flannel0".to_owned(), num_queues: 1, offloads: Offloads::OFF };
    let made = node.netns().enter(|| Ok(again.open().map(drop))).unwrap();
    assert!(made.unwrap_err().is_name_taken());
    for other in ["10.5.99.1/32", "10.99.0.1/24"] {
        node.netns().ip(&format!("addr add {other} dev flannel0")).unwrap();
        eventually("it is reported", || failing_checks(node) == ["address"]);
        node.netns().ip(&format!("addr del {other} dev flannel0")).unwrap();
        eventually("the node is ready again", || failing_checks(node).is_empty());
    }
}

/// The daemon of the node.
fn flanneld(node: &Node) -> u32 {
    let netns = node.netns().inode();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let of = |file: &str| format!("/proc/{pid}/{file}");
        std::fs::read_to_string(of("comm")).is_ok_and(|name| name == "flanneld\n")
            && std::fs::metadata(of("ns/net")).map(|found| found.ino()).ok() == netns
    };
    pids.find(is_it).unwrap()
}

/// CPU time of a process in hundredths of a second: proc_pid_stat(5).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What `ip` says of a link; null without one.
fn link(node: &Node, name: &str) -> Value {
    let json = node.netns().ip(&format!("-j link show dev {name}")).unwrap_or_default();
    let links: Value = serde_json::from_str(&json).unwrap_or_default();
    links[0].clone()
}

/// Two nodes that know each other by public IPs which no interface has: the underlay's router
/// turns them into the nodes' addresses and back.
#[test]
fn nodes_behind_a_nat_reach_each_other_by_their_public_ips() {
    let spec = spec("nat", 2);
    let behind_nat = |number: usize| {
        let flags = format!("-public-ip=203.0.113.{number} -iface=eth0");
        (format!("n{number}"), spec.daemon.clone().with(&flags))
    };
    let daemons = BTreeMap::from([1, 2].map(behind_nat));
    let mut lab = Lab::create(LabSpec { daemons, ..spec }).unwrap();
    translate(&Netns::named(lab.names().underlay()));
    lab.start_all().unwrap();
    lab.wait_reachable().unwrap();
    let leases = lab.etcd().leases().unwrap();
    assert!(leases.iter().all(|(_, value)| value.to_string().contains("203.0.113.")), "{leases:?}");
    let sockets = lab.nodes()[0].netns().tool("ss").words("-ulnH sport = :8285").run().unwrap();
    assert!(sockets.contains("192.168.64.11:8285"), "{sockets}");
    crate::harness::assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 8);
}

fn translate(router: &Netns) {
    let rules = "table ip nat {
        chain in { type nat hook prerouting priority dstnat;
            ip daddr 203.0.113.1 dnat to 192.168.64.11;
            ip daddr 203.0.113.2 dnat to 192.168.64.12; };
        chain out { type nat hook postrouting priority srcnat;
            ip saddr 192.168.64.11 ip daddr 192.168.64.12 snat to 203.0.113.1;
            ip saddr 192.168.64.12 ip daddr 192.168.64.11 snat to 203.0.113.2; }; }";
    router.sysctl("net.ipv4.ip_forward=1").unwrap();
    router.tool("nft").arg(rules).run().unwrap();
}

/// What `ip` prints of the overlay device, except its number.
fn device(node: &Node) -> Option<(String, String, u64)> {
    let netns = node.netns();
    let addrs = netns.ip("-4 -o addr show up dev flannel0").ok()?;
    let addrs = addrs.split_once(": ")?.1.to_owned();
    let route = netns.ip(&format!("-4 route show {}", overlay(node).env.network)).ok()?;
    Some((addrs, route, mtu(node)))
}

/// The overlay device's MTU; 0 without one.
fn mtu(node: &Node) -> u64 {
    link(node, "flannel0")["mtu"].as_u64().unwrap_or_default()
}

/// Inner packets that the node has carried in either direction since it started.
fn packets(node: &Node) -> u64 {
    let json = probe::fetch_health(node.netns(), "/stats").unwrap();
    let stats: Value = serde_json::from_str(&json).unwrap();
    let workers = stats["dataplane"]["workers"].as_array().unwrap();
    let of = |path: &Value, direction: &str| path[direction]["packets"].as_u64().unwrap();
    let paths = workers.iter().chain([&stats["fast_path"]]);
    paths.map(|path| of(path, "egress") + of(path, "ingress")).sum()
}
