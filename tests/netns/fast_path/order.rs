//! The order in which the fast path begins and ends, while packets flow.

use std::path::Path;
use std::thread::{self, JoinHandle};

use twill::lab::Lab;
use twill::lab::host::netns::Netns;
use twill::lab::host::process::Process;
use twill::lab::network::node::Node;

use super::life::hooks_are_alive;
use super::{count, is_active, stats, wait_for_it, wait_for_sparse};
use crate::chaos::stream::Stream;
use crate::harness::{FLANNELD, assert_tcp_is_whole, etcdctl, eventually, ping, pod, up};

/// Pings in a row, each sent as soon as the last one is answered; none may be lost.
fn assert_none_is_lost(lab: &Lab, what: &str) {
    for (from, to) in [(0, 1), (1, 0)] {
        let (ok, said) = ping(pod(lab, from), "-q -f -c 300 -W 2", pod(lab, to).addr);
        assert!(ok && said.contains(" 0% packet loss"), "{what}: {said}");
    }
}

/// Makes a node's interface again, as another device, on the underlay's bridge.
fn make_interface_again(lab: &Lab) {
    let node = &lab.nodes()[0];
    node.netns().ip("link del eth0").unwrap();
    let underlay = Netns::named(lab.names().underlay());
    let name = node.netns().name();
    let port = node.name();
    underlay.ip(&format!("link add {port} type veth peer name eth0 netns {name}")).unwrap();
    underlay.ip(&format!("link set {port} master br0 up")).unwrap();
    for step in ["addr add 192.168.64.11/24 dev eth0", "link set eth0 up"] {
        node.netns().ip(step).unwrap();
    }
}

#[test]
fn after_every_accident_the_programs_are_where_the_devices_are_and_nothing_is_lost() {
    let lab = up("fast-order", 2);
    let ip = |args: &str| drop(lab.nodes()[0].netns().ip(args).unwrap());
    type Accident<'a> = (&'a str, &'a dyn Fn());
    let accidents: [Accident<'_>; 3] = [
        ("the overlay device is deleted", &|| ip("link del flannel0")),
        ("the interface is another device", &|| make_interface_again(&lab)),
        ("the interface has another address", &|| {
            ip("addr del 192.168.64.11/24 dev eth0");
            ip("addr add 192.168.64.77/24 dev eth0");
        }),
    ];
    for (what, accident) in accidents {
        wait_for_it(&lab);
        let node = &lab.nodes()[0];
        let index = || stats(node)["hooks"][0]["ifindex"].as_u64();
        let before = (index(), stats(node)["hooks"][1]["ifindex"].as_u64());
        accident();
        eventually(what, || {
            let now = (index(), stats(node)["hooks"][1]["ifindex"].as_u64());
            now != before && hooks_are_alive(node)
        });
        wait_for_it(&lab);
        assert_none_is_lost(&lab, what);
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    }
}

/// 125 leases of strangers in one transaction: to be there, or to be gone.
fn change_leases(lab: &mut Lab, is_there: bool) {
    let own: Vec<String> = lab.nodes().iter().map(|it| it.overlay().unwrap().env.key()).collect();
    let keys = (1..=127).map(|number| format!("/coreos.com/network/subnets/10.5.{number}.0-24"));
    let keys = keys.filter(|key| !own.iter().any(|own| key.ends_with(own.as_str()))).take(125);
    let change = |key: String| {
        if is_there {
            format!("put {key} {{\"PublicIP\":\"192.168.64.250\"}}\n")
        } else {
            format!("del {key}\n")
        }
    };
    let script = format!("\n{}\n\n", keys.map(change).collect::<String>());
    let etcdctl = lab.etcd().netns().tool("etcdctl").words("--endpoints=192.168.64.2:2379 txn");
    etcdctl.stdin(script).run().unwrap();
}

#[test]
fn neither_a_thousand_leases_nor_an_outage_of_etcd_costs_a_packet() {
    let mut lab = up("fast-churn", 2);
    wait_for_it(&lab);
    let before = count(&lab.nodes()[0], "egress", "packets");
    let stream = Stream::start(pod(&lab, 0), pod(&lab, 1));
    let num_added =
        |lab: &Lab| lab.nodes()[0].log_tail(10_000).matches("Subnets added: 125").count();
    for number in 1..=4 {
        change_leases(&mut lab, true);
        eventually("the leases are known", || num_added(&lab) >= number);
        change_leases(&mut lab, false);
    }
    assert_none_is_lost(&lab, "leases that come and go");
    lab.etcd().stop();
    assert_none_is_lost(&lab, "without etcd");
    lab.etcd().start_again().unwrap();
    let tally = stream.end();
    assert_eq!((tally.lost, tally.corrupt), (0, 0), "{tally:?}");
    let carried = count(&lab.nodes()[0], "egress", "packets") - before;
    assert!(carried >= 1200, "by the kernel: {carried}, {tally:?}");
}

#[test]
fn peer_that_gives_the_fast_path_up_is_sent_to_by_workers_and_nothing_is_lost() {
    let lab = up("fast-less", 2);
    wait_for_it(&lab);
    let (a, b) = (&lab.nodes()[0], &lab.nodes()[1]);
    let stream = Stream::start(pod(&lab, 0), pod(&lab, 1));
    let pings = pings_for_three_seconds(&lab);
    for (switch, is_on) in [("off", false), ("on", true)] {
        let words = format!("-K eth0 tx-udp_tnl-segmentation {switch}");
        b.netns().tool("ethtool").words(&words).run().unwrap();
        // Looked at when a link changes.
        b.netns().ip("link set eth0 txqueuelen 1001").unwrap();
        b.netns().ip("link set eth0 txqueuelen 1000").unwrap();
        eventually(switch, || is_active(b) == is_on && (!is_on || stats(b)["carries"][0] == "TCP"));
        eventually("the sender knows", || {
            let before = count(a, "egress", "packets");
            let answered = ping(pod(&lab, 0), "-q -f -c 20", pod(&lab, 1).addr).0;
            answered && (count(a, "egress", "packets") >= before + 20) == is_on
        });
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
        if !is_on {
            wait_for_sparse(b, "eth0 carries single frames");
        }
    }
    let tally = stream.end();
    assert_eq!((tally.lost, tally.corrupt), (0, 0), "{tally:?}");
    let said = pings.join().unwrap();
    assert!(said.contains(" 0% packet loss"), "{said}");
}

/// Pings of 5 ms for 3 s.
fn pings_for_three_seconds(lab: &Lab) -> JoinHandle<String> {
    let (netns, to) = (pod(lab, 0).netns.clone(), pod(lab, 1).addr);
    thread::spawn(move || {
        let ping = netns.tool("ping").words("-n -q -i 0.005 -c 600 -W 2").arg(to.to_string());
        ping.output().unwrap().stdout
    })
}

/// Starts another daemon on the node, with a network and a port of its own.
fn start_other(lab: &Lab, node: &Node) -> (Process, std::path::PathBuf) {
    let dir = lab.names().dir();
    let (env, log) =
        (dir.join(node.name()).join("other.env"), dir.join(format!("{}.other", node.name())));
    let args = [
        "-etcd-endpoints=http://192.168.64.2:2379".to_owned(),
        "-etcd-prefix=/other/network".to_owned(),
        "-iface=eth0".to_owned(),
        "-healthz-port=0".to_owned(),
        format!("-subnet-file={}", env.display()),
    ];
    let process = Process::start(node.netns(), Path::new(FLANNELD), &args, log).unwrap();
    eventually("the other daemon's fast path is on", || {
        env.exists() && process.log_tail(1000).contains("fast path is on")
    });
    (process, env)
}

#[test]
fn two_daemons_of_one_host_do_not_disturb_each_other() {
    let mut lab = up("fast-two", 2);
    let config = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"udp","Port":8286}}"#;
    etcdctl(lab.etcd(), &["put", "/other/network/config", config]);
    wait_for_it(&lab);
    let (mut first, _) = start_other(&lab, &lab.nodes()[0]);
    let (mut second, env) = start_other(&lab, &lab.nodes()[1]);
    let text = std::fs::read_to_string(&env).unwrap();
    let subnet = text.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET=")).unwrap();
    // The device has the first address of the subnet, one before that of the bridge.
    let addr = subnet.split('/').next().unwrap().strip_suffix('1').unwrap().to_owned() + "0";
    let others_reach = || {
        let ping = lab.nodes()[0].netns().tool("ping").words("-q -c 3 -i 0.1 -W 1").arg(&addr);
        ping.output().unwrap().status.success()
    };
    eventually("the other network's nodes reach each other", others_reach);
    assert_none_is_lost(&lab, "two networks");

    let pings = pings_for_three_seconds(&lab);
    first.kill();
    assert!(hooks_are_alive(&lab.nodes()[0]), "{}", stats(&lab.nodes()[0]));
    let (mut again, _) = start_other(&lab, &lab.nodes()[0]);
    eventually("the other network is whole again", others_reach);
    let said = pings.join().unwrap();
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert!(hooks_are_alive(&lab.nodes()[0]));
    again.kill();
    second.kill();
}
