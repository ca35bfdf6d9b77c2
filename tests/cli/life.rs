//! A daemon's life: what it changes on the host, and what it leaves.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use crate::host::{Host, eventually};
use crate::only_error;

#[test]
fn daemon_sets_the_host_up_and_leaves_nothing_but_its_file_and_lease() {
    let host = Host::with_etcd();
    host.put_config(r#"{"network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-public-ip", "192.0.2.1"]);
    let log = daemon.wait_for("Watching for new subnet leases");
    for line in [
        "Found network config - Backend type: udp",
        "Using interface with name lo and address 10.0.0.7",
        "Using 192.0.2.1 as external address",
        "Allocated lease (ip: 10.1.",
        "Wrote subnet file to ",
        "flannel is ready",
        "Running backend.",
    ] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(!log.contains('\x1b'), "colours in a file: {log}");
    let env = fs::read_to_string(host.dir.path().join("a.env")).unwrap();
    assert!(env.starts_with("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1."), "{env}");
    let route = host.output(&["ip", "-d", "route", "show", "10.1.0.0/16"]);
    assert_eq!(route.trim(), "unicast 10.1.0.0/16 dev flannel0 proto boot scope global");
    let subnet = env.lines().nth(1).unwrap().trim_start_matches("FLANNEL_SUBNET=");
    let addr = subnet.replace(".1/24", ".0/32");
    let addrs = host.output(&["ip", "-4", "-o", "addr", "show", "dev", "flannel0"]);
    assert!(addrs.contains(&format!("inet {addr} scope global flannel0")), "{addrs}");
    let link = host.output(&["ip", "-o", "link", "show", "flannel0"]);
    assert!(link.contains(",UP,") && link.contains("mtu 65507 "), "{link}");
    assert!(link.contains("qlen 1000"), "{link}");

    daemon.signal("TERM");
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(host.links_named_flannel().is_empty());
    let leases = host.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets/"]);
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{"HostID":""#;
    assert!(leases.contains(value), "{leases}");
}

#[test]
fn taken_udp_port_is_told_and_the_device_goes() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":8290}}"#);
    let first = host.start("first", &["-iface", "lo", "-iface", "10.0.0.7"]);
    first.wait_for("Watching for new subnet leases");
    let leases =
        || host.etcdctl(&["get", "--prefix", "-w", "json", "/coreos.com/network/subnets/"]);
    let before = leases();
    let (status, log) = host.start("second", &["-iface", "10.0.0.7"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains("bind UDP socket to 10.0.0.7:8290: Address already in use"), "{last}");
    assert!(last.contains("another flanneld"), "{last}");
    assert_eq!(leases(), before, "the lease is left alone, its revision too");
    assert_eq!(host.links_named_flannel(), ["flannel0"]);
}

#[test]
fn signal_while_waiting_for_config_is_a_clean_end_and_no_log_holds_the_password() {
    let host = Host::new();
    let user = ["-etcd-username", "u", "-etcd-password", "sesame", "-v", "9"];
    for signal in ["TERM", "INT"] {
        let daemon = host.start(signal, &user);
        daemon.wait_for("Couldn't fetch network config");
        daemon.signal(signal);
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("sesame"), "{log}");
    }
}

#[test]
fn second_signal_kills() {
    let host = Host::new();
    let is_killed = || {
        let daemon = host.start("a", &[]);
        daemon.wait_for("Couldn't fetch network config");
        daemon.signal("STOP");
        eventually("every thread stands still", || is_stopped(daemon.pid()).then_some(()));
        for signal in ["TERM", "INT", "CONT"] {
            daemon.signal(signal);
        }
        daemon.end().0.signal().is_some()
    };
    // Both are pending when the process goes on. On a busy machine the thread that takes one may end
    // the process all the same, before the thread that takes the other has a processor.
    assert!((0..20).any(|_| is_killed()));
}

fn is_stopped(pid: u32) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.all(|thread| {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

#[test]
fn rules_that_take_long_do_not_delay_the_node() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    for tool in ["iptables", "iptables-save", "iptables-restore", "nft"] {
        host.write_program(tool, "#!/bin/sh\nexec sleep 1000\n");
    }
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-ip-masq"]);
    let log = daemon.wait_for("flannel is ready");
    assert!(!log.contains("Failed to set up rules"), "it waited for the tool to be killed: {log}");
    daemon.wait_for("Failed to set up rules");
    daemon.stop();
}
