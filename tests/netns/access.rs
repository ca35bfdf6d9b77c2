//! One host with several daemons, and an etcd with authentication.

use std::path::Path;
use std::time::Duration;

use twill::lab::host::process::{Process, Signal};
use twill::lab::network::daemon::Daemon;
use twill::lab::{Lab, LabSpec};

use crate::harness::{FLANNELD, etcdctl, eventually, overlay, spec, up};

#[test]
fn password_is_in_no_log_however_detailed() {
    const PASSWORD: &str = "open-sesame";
    let words = [&format!("FLANNELD_ETCD_PASSWORD={PASSWORD}"), "RUST_LOG=trace", FLANNELD];
    let daemon = Daemon {
        before: words.map(str::to_owned).to_vec(),
        ..Daemon::flanneld("/usr/bin/env").with("-etcd-username root -v 9")
    };
    let mut lab = Lab::create(LabSpec { daemon, ..spec("secret", 1) }).unwrap();
    for command in [
        &format!("user add root:{PASSWORD}"),
        "role add root",
        "user grant-role root root",
        "auth enable",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        etcdctl(lab.etcd(), &words);
    }
    let node = &mut lab.nodes_mut()[0];
    node.start().unwrap();
    node.wait_ready().unwrap();
    let log = node.log_tail(usize::MAX);
    assert!(log.contains("TRACE"), "as detailed as can be");
    assert!(!log.contains(PASSWORD) && !log.contains(&hex(PASSWORD)));
    assert!(!log.contains(&format!("{:?}", PASSWORD.as_bytes())));
}

/// Two digits for each byte.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn two_daemons_on_one_host_live_in_two_prefixes() {
    let mut lab = up("prefixes", 1);
    let config = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"udp","Port":8286}}"#;
    etcdctl(lab.etcd(), &["put", "/other/network/config", config]);
    let dir = lab.names().dir();
    let env = dir.join("other.env");
    let node = &lab.nodes()[0];
    let args = [
        "-etcd-endpoints=http://192.168.64.2:2379".to_owned(),
        "-etcd-prefix=/other/network".to_owned(),
        "-iface=eth0".to_owned(),
        format!("-subnet-file={}", env.display()),
    ];
    let log = dir.join("other.log");
    let mut other = Process::start(node.netns(), Path::new(FLANNELD), &args, log).unwrap();
    eventually("the other daemon to be ready", || env.exists());

    let routes = node.netns().ip("-4 route").unwrap();
    assert!(routes.contains("10.5.0.0/16 dev flannel0"), "{routes}");
    assert!(routes.contains("10.6.0.0/16 dev flannel1"), "{routes}");
    let ours = overlay(node).env.key();
    assert_eq!(lab.etcd().leases().unwrap().len(), 1, "the other's lease is under another prefix");
    assert_eq!(lab.etcd().leases().unwrap()[0].0, ours);
    let others =
        etcdctl(lab.etcd(), &["get", "--prefix", "--keys-only", "/other/network/subnets/"]);
    assert_eq!(others.split_whitespace().count(), 1);

    other.id().signal(Signal::SIGTERM);
    assert!(other.wait(Duration::from_secs(15)).unwrap().success());
    let links = lab.nodes()[0].netns().ip("-br link").unwrap();
    assert!(links.contains("flannel0") && !links.contains("flannel1"), "{links}");
}
