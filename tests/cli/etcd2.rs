//! A daemon in a network whose config and leases are in etcd's v2 store.

use crate::host::{Host, eventually};

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

/// The only key of a lease.
fn own_lease(host: &Host) -> String {
    let listed = etcdctl2(host, &["ls", "/coreos.com/network/subnets"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    listed
}

fn etcdctl2(host: &Host, args: &[&str]) -> String {
    host.output(&[&["env", "ETCDCTL_API=2", "etcdctl"], args].concat()).trim().to_owned()
}
