//! A daemon in a network whose config and leases are in etcd's v2 store.

use crate::host::{FLANNELD, Host, eventually, text};

#[test]
fn config_is_waited_for_in_both_stores_and_followed_where_it_appears() {
    let mut host = Host::new();
    host.start_etcd_with(&["--enable-v2=true"]);
    etcdctl2(&host, &["set", "/atomic.io/network/config", r#"{"Network":"10.9.0.0/16"}"#]);
    let args = ["-iface", "10.0.0.7"];
    let daemon = host.start("a", &args);
    daemon.wait_for(
        "Couldn't fetch network config: etcd key /coreos.com/network/config does not exist, but \
         etcd v2 key /atomic.io/network/config does: use --etcd-prefix=/atomic.io/network; waiting",
    );
    etcdctl2(&host, &["set", "/coreos.com/network/config", r#"{"Network":"10.1.0.0/16"}"#]);
    daemon.wait_for(
        "etcd key /coreos.com/network/config does not exist, but etcd v2 key \
         /coreos.com/network/config does: using the v2 API (--etcd-api=2)",
    );
    daemon.wait_for("Watching for new subnet leases");
    let lease = own_lease(&host);
    let value = etcdctl2(&host, &["get", &lease]);
    assert!(value.starts_with(r#"{"PublicIP":"10.0.0.7","PublicIPv6":null"#), "{value}");

    // A node of flannel 0.6 comes and goes.
    let peer = "/coreos.com/network/subnets/10.1.77.0-24";
    etcdctl2(&host, &["set", "--ttl", "86400", peer, r#"{"PublicIP":"10.0.0.9"}"#]);
    daemon.wait_for("Subnet added: 10.1.77.0/24");
    // Every lease at once is one event of the directory.
    etcdctl2(&host, &["rm", "--recursive", "/coreos.com/network/subnets"]);
    daemon.wait_for("Subnet removed: 10.1.77.0/24");
    daemon.wait_for("was deleted by somebody and was created again");
    eventually("our lease is back", || Some(()).filter(|()| own_lease(&host) == lease));
    let state = host.dir.path().join("a.state.json");
    eventually("it is remembered", || state.exists().then_some(()));
    daemon.stop();

    // The next life begins with what it remembers of v2.
    host.stop_etcd();
    let daemon = host.start("a", &args);
    daemon.wait_for("Watching for new subnet leases");
    host.start_etcd_with(&["--enable-v2=true"]);
    daemon.wait_for("using the v2 API (--etcd-api=2)");
    daemon.wait_for("registry is back: lease ");
    assert_eq!(own_lease(&host), lease);
    daemon.stop();
}

#[test]
fn api_that_the_operator_names_is_the_only_one() {
    let mut host = Host::new();
    host.start_etcd_with(&["--enable-v2=true"]);
    etcdctl2(&host, &["set", "/coreos.com/network/config", r#"{"Network":"10.1.0.0/16"}"#]);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-etcd-api", "3"]);
    daemon.wait_for(
        "etcd key /coreos.com/network/config does not exist, but etcd v2 key \
         /coreos.com/network/config does: use --etcd-api=2; waiting",
    );
    daemon.stop();
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-etcd-api", "2"]);
    daemon.wait_for("Watching for new subnet leases");
    assert!(!daemon.log().contains("using the v2 API"), "nothing to say");
    own_lease(&host);
    daemon.stop();
}

#[test]
fn store_that_is_switched_off_is_one_line_and_used_once_it_is_there() {
    let mut host = Host::new();
    host.start_etcd_with(&["--enable-v2=false"]);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-etcd-api", "2"]);
    let line = "Couldn't fetch network config: etcd at 127.0.0.1:2379 does not serve the v2 API; \
                start etcd 3.4 or 3.5 with --enable-v2=true, or use --etcd-api=3; waiting";
    assert_eq!(daemon.wait_for(line).matches("Couldn't fetch").count(), 1);
    host.stop_etcd();
    host.start_etcd_with(&["--enable-v2=true"]);
    etcdctl2(&host, &["set", "/coreos.com/network/config", r#"{"Network":"10.1.0.0/16"}"#]);
    daemon.wait_for("Watching for new subnet leases");
    daemon.stop();
}

#[test]
fn config_under_another_usual_prefix_is_pointed_at_in_either_store() {
    let mut host = Host::new();
    host.start_etcd_with(&["--enable-v2=true"]);
    let config = r#"{"Network":"10.1.0.0/16"}"#;
    // The look at other prefixes ends unfinished where the machine is slow.
    let is_problem = |api: &str, expected: &str| {
        let check = [FLANNELD, "-config-check", "-iface", "10.0.0.7", "-etcd-api", api];
        eventually(expected, || {
            let output = host.command(&check).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            let found = text(&output.stderr);
            (found.trim_end() == format!("flanneld: {expected}")).then_some(())
        });
    };
    for prefix in ["/atomic.io/network", "/flannel/network", "/kube-centos/network"] {
        let key = format!("{prefix}/config");
        etcdctl2(&host, &["set", &key, config]);
        let own = "etcd v2 key /coreos.com/network/config does not exist";
        let line = format!("{own}, but etcd v2 key {key} does: use --etcd-prefix={prefix}");
        is_problem("2", &line);
        let own = "etcd key /coreos.com/network/config does not exist";
        let line = format!("{own}, but etcd v2 key {key} does: use --etcd-prefix={prefix}");
        is_problem("auto", &line);
        is_problem("3", &format!("{line} --etcd-api=2"));
        etcdctl2(&host, &["rm", &key]);

        host.etcdctl(&["put", &key, config]);
        let line = format!("{own}, but etcd key {key} does: use --etcd-prefix={prefix}");
        is_problem("auto", &line);
        is_problem("3", &line);
        let own = "etcd v2 key /coreos.com/network/config does not exist";
        let line = format!("{own}, but etcd key {key} does: use --etcd-prefix={prefix}");
        is_problem("2", &format!("{line} --etcd-api=3"));
        host.etcdctl(&["del", &key]);
    }
}

/// The leases are as these versions write them.
#[test]
fn nodes_of_old_versions_are_peers_by_their_lease_bytes() {
    let mut host = Host::new();
    host.start_etcd_with(&["--enable-v2=true"]);
    host.output(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]);
    host.output(&["ip", "addr", "add", "192.0.2.7/24", "dev", "eth0"]);
    for link in ["eth0", "eth1"] {
        host.output(&["ip", "link", "set", link, "up"]);
    }
    let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
    etcdctl2(&host, &["set", "/coreos.com/network/config", config]);
    let peers = [
        // 0.6 to 0.13
        r#"{"PublicIP":"192.0.2.6","BackendType":"vxlan","BackendData":{"VtepMAC":"46:a7:b0:32:00:06"}}"#,
        // 0.14
        r#"{"PublicIP":"192.0.2.14","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:a7:b0:32:00:14"}}"#,
        // 0.15 to 0.17
        r#"{"PublicIP":"192.0.2.17","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:a7:b0:32:00:17"}}"#,
    ];
    let put = |number: usize, value: &str| {
        let key = format!("/coreos.com/network/subnets/10.1.20{number}.0-24");
        etcdctl2(&host, &["set", "--ttl", "86400", &key, value]);
    };
    peers.iter().enumerate().for_each(|(number, value)| put(number, value));
    let daemon = host.start("a", &["-iface", "192.0.2.7"]);
    daemon.wait_for("flannel is ready");
    for (number, version) in ["6", "14", "17"].iter().enumerate() {
        let route = format!("10.1.20{number}.0/24 via 10.1.20{number}.0 dev flannel.1");
        eventually(&route, || host.output(&["ip", "route"]).contains(&route).then_some(()));
        let entry = format!("46:a7:b0:32:00:{version:0>2} dst 192.0.2.{version} self permanent");
        let fdb = host.output(&["bridge", "fdb", "show", "dev", "flannel.1"]);
        assert!(fdb.contains(&entry), "{fdb}");
    }
    // Nodes of the udp backend write no type: they are none of vxlan's.
    put(9, r#"{"PublicIP":"192.0.2.9"}"#);
    daemon.wait_for("ignoring non-vxlan");
    // All are gone with their directory.
    etcdctl2(&host, &["rm", "--recursive", "/coreos.com/network/subnets"]);
    eventually("no route", || {
        (!host.output(&["ip", "route"]).contains("dev flannel.1 onlink")).then_some(())
    });
    daemon.stop();
}

/// The only key of a lease.
fn own_lease(host: &Host) -> String {
    let listed = etcdctl2(host, &["ls", "/coreos.com/network/subnets"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    listed
}

fn etcdctl2(host: &Host, args: &[&str]) -> String {
    host.output(&[&["env", "ETCDCTL_API=2", "etcdctl"], args].concat()).trim().to_owned()
}
