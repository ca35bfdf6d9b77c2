//! A Network that covers addresses of the underlay.

use std::process::Output;

use crate::host::{FLANNELD, Host, text};
use crate::only_error;

const NETWORK: &str = r#"{"Network":"192.168.0.0/16","SubnetMin":"192.168.128.0"}"#;

#[test]
fn node_that_would_lose_etcd_behind_its_gateway_does_not_start() {
    let host = host();
    serve_etcd_at(&host, "192.168.99.5");
    let (code, plan) = check(&host, &["-etcd-endpoints=http://192.168.99.5:2379"]);
    assert_eq!(code, Some(1), "{plan}");
    let problem = "Network 192.168.0.0/16 covers etcd endpoint 192.168.99.5, which no longer route";
    assert!(plan.contains(&format!("problem      {problem}")), "{plan}");
    let far = ["-iface=eth0", "-etcd-endpoints=http://192.168.99.5:2379"];
    let (status, log) = host.start("a", &far).end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains(problem), "{log}");
    assert!(only_error(&log).contains("add a route to 192.168.99.5"), "{log}");
    assert!(host.links_named_flannel().is_empty());
    assert_eq!(host.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets"]), "", "no lease");

    // A route of its own is what the message says.
    ip(&host, "route add 192.168.99.5/32 via 192.168.61.2 dev eth0");
    let daemon = host.start("b", &far);
    let log = daemon.wait_for("Watching for new subnet leases");
    assert!(
        log.contains("WARN Network 192.168.0.0/16 covers etcd endpoint 192.168.99.5: "),
        "{log}"
    );
    daemon.stop();
}

#[test]
fn hosts_on_the_interface_s_own_link_stay_in_reach_with_a_warning() {
    let host = host();
    let key = "/coreos.com/network/subnets/192.168.200.0-24";
    for (key, ip) in [(key, "192.168.99.9"), (&key.replace("200", "201"), "192.168.61.9")] {
        host.etcdctl(&["put", key, &format!(r#"{{"PublicIP":"{ip}"}}"#)]);
    }
    let (code, plan) = check(&host, &[]);
    assert_eq!(code, Some(0), "{plan}");
    for covered in ["address 192.168.61.1 of interface eth0", "the default gateway 192.168.61.2"] {
        let line = format!("warning      Network 192.168.0.0/16 covers {covered}: only hosts that");
        assert!(plan.contains(&line), "{plan}");
    }
    let lost = "covers peer 192.168.99.9: no longer route leads to it";
    assert!(plan.contains(lost) && !plan.contains("192.168.61.9"), "{plan}");
    let daemon = host.start("a", &["-iface=eth0"]);
    let log = daemon.wait_for("Watching for new subnet leases");
    let line = "WARN Network 192.168.0.0/16 covers address 192.168.61.1 of interface eth0: ";
    assert!(log.contains(line), "{log}");
    // The check also works while the daemon runs.
    let (_, plan) = check(&host, &[]);
    assert!(plan.contains(lost), "{plan}");
    daemon.stop();
}

#[test]
fn node_that_would_lose_its_gateway_does_not_start() {
    let host = host();
    // As DHCP clients do it: a metric, and ours has none.
    ip(&host, "addr flush dev eth0");
    ip(&host, "addr add 192.168.61.1/16 dev eth0 noprefixroute");
    ip(&host, "route add 192.168.0.0/16 dev eth0 metric 100");
    ip(&host, "route add default via 192.168.61.2 metric 100");
    let (status, log) = host.start("a", &["-iface=eth0"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains("covers the default gateway 192.168.61.2"), "{log}");
}

#[test]
fn network_apart_from_the_underlay_is_no_reason_to_warn() {
    let host = host();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let (code, plan) = check(&host, &[]);
    assert_eq!((code, plan.contains("covers")), (Some(0), false), "{plan}");
}

/// With 192.168.61.1/24 on eth0, a default gateway there, and etcd on the loopback.
fn host() -> Host {
    let host = Host::with_etcd();
    ip(&host, "link add eth0 type veth peer name peer0");
    ip(&host, "addr add 192.168.61.1/24 dev eth0");
    ip(&host, "link set eth0 up");
    ip(&host, "link set peer0 up");
    ip(&host, "route add default via 192.168.61.2");
    host.put_config(NETWORK);
    host
}

/// Makes `addr` lead to the etcd of this host, though its route says the gateway.
fn serve_etcd_at(host: &Host, addr: &str) {
    let rule = format!("-t nat -A OUTPUT -d {addr} -p tcp -j DNAT --to 127.0.0.1");
    host.output(&[&["iptables"][..], &rule.split(' ').collect::<Vec<_>>()].concat());
}

fn ip(host: &Host, words: &str) {
    host.output(&[&["ip"][..], &words.split(' ').collect::<Vec<_>>()].concat());
}

fn check(host: &Host, args: &[&str]) -> (Option<i32>, String) {
    let mut command = host.command(&[FLANNELD, "-config-check", "-iface=eth0"]);
    let Output { status, stdout, .. } = command.args(args).output().unwrap();
    (status.code(), text(&stdout))
}
