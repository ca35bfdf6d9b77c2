//! A daemon and its registry: leases lost and kept, without etcd, in a file.

use std::fs;

use crate::host::{Host, eventually};
use crate::only_error;

#[test]
fn deleted_lease_ends_the_daemon_with_status_1_if_it_is_to() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-on-lease-loss", "exit"]);
    daemon.wait_for("Watching for new subnet leases");
    host.etcdctl(&["del", "--prefix", "/coreos.com/network/subnets/"]);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains("lease lost: "), "{log}");
    assert!(host.links_named_flannel().is_empty());
}

#[test]
fn deleted_lease_is_reacquired_and_one_taken_over_ends_the_daemon_with_status_1() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Watching for new subnet leases");
    let subnets = ["--prefix", "/coreos.com/network/subnets/"];
    let lease =
        || host.etcdctl(&[&["get", "--keys-only"][..], &subnets].concat()).trim().to_owned();
    let key = lease();
    host.etcdctl(&[&["del"][..], &subnets].concat());
    daemon.wait_for("was deleted by somebody and was created again");
    assert_eq!(lease(), key);
    assert_eq!(host.links_named_flannel(), ["flannel0"]);

    host.etcdctl(&["put", &key, r#"{"PublicIP":"10.0.0.9"}"#]);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains(" of 10.0.0.7 now belongs to 10.0.0.9"), "{last}");
    assert!(host.links_named_flannel().is_empty());
    assert!(host.etcdctl(&["get", &key]).contains("10.0.0.9"), "not overwritten");
}

#[test]
fn restarts_after_the_entry_was_overwritten_or_deleted_leave_no_etcd_lease_behind() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let subnets = ["--prefix", "/coreos.com/network/subnets/"];
    let mut before = String::new();
    for change in ["nothing", "overwrite", "delete"] {
        let key = host.etcdctl(&[&["get", "--keys-only"][..], &subnets].concat());
        match change {
            "overwrite" => drop(host.etcdctl(&["put", key.trim(), "[]"])),
            "delete" => drop(host.etcdctl(&["del", key.trim()])),
            _ => {}
        }
        let daemon = host.start("a", &["-iface", "10.0.0.7"]);
        daemon.wait_for("Watching for new subnet leases");
        let left = eventually("one etcd lease", || {
            let leases = host.etcdctl(&["lease", "list"]);
            leases.starts_with("found 1 leases").then_some(leases)
        });
        assert_ne!(left, before, "it is a new one after {change}");
        before = left;
        // The next start reads which one it was.
        let id = i64::from_str_radix(before.lines().nth(1).unwrap(), 16).unwrap();
        let state = host.dir.path().join("a.state.json");
        let is_recorded = |text: &String| text.contains(&format!("\"{id}\""));
        eventually("state", || fs::read_to_string(&state).ok().filter(is_recorded));
        daemon.signal("TERM");
        assert_eq!(daemon.end().0.code(), Some(0));
    }
}

#[test]
fn restart_without_etcd_keeps_subnet_and_peers_and_settles_when_it_is_back() {
    let mut host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let peer = "/coreos.com/network/subnets/10.1.9.0-24";
    host.etcdctl(&["put", peer, r#"{"PublicIP":"10.0.0.9"}"#]);
    let env = host.dir.path().join("a.env");
    let state = host.dir.path().join("a.state.json");
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    eventually("state", || fs::read_to_string(&state).ok().filter(|s| s.contains("10.1.9.0-24")));
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
    let subnet = fs::read_to_string(&env).unwrap();

    host.stop_etcd();
    fs::remove_file(&env).unwrap();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("do not agree with its subnet");
    daemon.wait_for("Couldn't fetch network config");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));

    fs::write(&env, &subnet).unwrap();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    let log = daemon.wait_for("Watching for new subnet leases");
    assert!(log.contains(" and 1 peers from "), "{log}");
    assert_eq!(fs::read_to_string(&env).unwrap(), subnet);
    assert_eq!(host.links_named_flannel(), ["flannel0"]);
    host.start_etcd();
    let log = daemon.wait_for("is still ours");
    assert!(!log.contains("Subnet removed") && !log.contains("conflict"), "{log}");

    // Somebody takes the subnet while both are away.
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
    let keys = host.etcdctl(&["get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"]);
    let own = keys.lines().find(|key| !key.is_empty() && *key != peer).unwrap().to_owned();
    host.etcdctl(&["put", &own, r#"{"PublicIP":"10.0.0.8"}"#]);
    host.stop_etcd();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Watching for new subnet leases");
    host.start_etcd();
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains(" of 10.0.0.7 now belongs to 10.0.0.8"), "{log}");
    assert!(!state.exists() && host.etcdctl(&["get", &own]).contains("10.0.0.8"));
}

#[test]
fn daemons_share_a_registry_in_a_file() {
    let host = Host::new();
    host.output(&["ip", "addr", "add", "10.0.0.8/32", "dev", "lo"]);
    let file = host.dir.path().join("registry.json");
    let flag = format!("file:{}", file.display());
    let daemon = |name: &str, addr: &str| {
        let small = ["-offload", "off", "-workers", "1", "-source-ports", "shared"];
        host.start(name, &[&["-registry", &flag, "-iface", addr][..], &small].concat())
    };
    let first = daemon("first", "10.0.0.7");
    let missing = format!("config in file {} does not exist", file.display());
    first.wait_for(&missing);
    fs::write(&file, "{ \"config\": {").unwrap();
    first.wait_for("not a registry: EOF while parsing");
    let typed = r#"{ "config": {"Network": "10.1.0.0/16"}, "by": "hand",
        "leases": {"10.1.8.0-24": {"PublicIP": "10.0.0.8", "note": "reserved"}} }"#;
    fs::write(&file, typed).unwrap();
    first.wait_for("Subnet added: 10.1.8.0/24");
    let second = daemon("second", "10.0.0.8");
    second.wait_for("Found lease (ip: 10.1.8.0/24 ipv6: ::/0) for current IP (10.0.0.8), reusing");
    second.wait_for("Subnet added: 10.1.");

    // An edit by hand while both run, then a broken file, then the repair. Beyond the first hundred
    // subnets, of which `first` has one.
    let text = fs::read_to_string(&file).unwrap();
    let entry = "\"10.1.8.0-24\": {\"PublicIP\": \"10.0.0.8\", \"note\": \"reserved\"}";
    assert!(text.contains(entry) && text.contains("\"by\": \"hand\""), "{text}");
    let more =
        text.replace(entry, &format!("\"10.1.200.0-24\": {{\"PublicIP\": \"10.0.0.9\"}}, {entry}"));
    fs::write(&file, &more).unwrap();
    for daemon in [&first, &second] {
        daemon.wait_for("Subnet added: 10.1.200.0/24");
    }
    fs::write(&file, &more[..50]).unwrap();
    second.wait_for("trying again");
    // A lease missing after an outage has half a minute to return; one deleted now is gone.
    fs::write(&file, &more).unwrap();
    second.wait_for("registry answers again");
    fs::write(&file, &text).unwrap();
    let log = second.wait_for("Subnet removed: 10.1.200.0/24");
    assert_eq!(log.matches("Subnet removed: ").count(), 1, "{log}");

    for daemon in [first, second] {
        daemon.signal("TERM");
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn two_live_hosts_with_one_public_ip_get_a_subnet_each_and_name_each_other() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    host.output(&["ip", "addr", "add", "10.0.0.8/32", "dev", "lo"]);
    let start = |name: &str, addr: &str, port: &str| {
        let health = ["-healthz-ip", "127.0.0.1", "-healthz-port", port];
        let args = [&["-iface", addr, "-public-ip", "192.0.2.1"][..], &health].concat();
        let daemon = host.start(name, &args);
        daemon.wait_for("flannel is ready");
        daemon
    };
    let subnet = |name: &str| {
        let env = fs::read_to_string(host.dir.path().join(format!("{name}.env"))).unwrap();
        env.lines().find(|line| line.starts_with("FLANNEL_SUBNET=")).unwrap().to_owned()
    };
    let get = |port: &str, path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = host.command(&["curl", "-s", &url]).output().unwrap();
        crate::host::text(&answer.stdout)
    };
    let first = start("first", "10.0.0.7", "8301");
    let had = subnet("first");
    let second = start("second", "10.0.0.8", "8302");
    assert_ne!(subnet("second"), had);
    second.wait_for("which is alive: this node takes another subnet");
    for (daemon, port) in [(&first, "8301"), (&second, "8302")] {
        let log = daemon.wait_for("carry one public IP");
        assert!(log.contains(" (host "), "{log}");
        eventually("named in /stats", || get(port, "/stats").contains("other_host").then_some(()));
        let readyz = get(port, "/readyz");
        assert!(readyz.contains("host "), "{readyz}");
        let is_well = readyz.contains(r#""lease":{"ok":true"#);
        assert_eq!(is_well, port == "8301", "{readyz}");
    }

    first.stop();
    let first = start("first", "10.0.0.7", "8301");
    assert_eq!(subnet("first"), had);
    first.stop();
    second.stop();
}
