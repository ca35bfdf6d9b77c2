//! Tools that are missing, fail or hang.

use std::fs;
use std::os::unix::fs::symlink;

use crate::expected::{CONFIG, FILTER, NAT};
use crate::firewall_host::{FirewallHost, NFT};

#[test]
fn daemon_works_without_iptables_and_says_so_once() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let bin = host.empty_bin();
    let daemon = host.start_without_programs(&bin, &["-iptables-resync=1", "-ip-masq"]);
    daemon.wait_for("flannel is ready");
    for name in ["iptables", "iptables-save", "iptables-restore"] {
        symlink(host.bin().join(name), bin.join(name)).unwrap();
    }
    let log = daemon.wait_for("rules are in place: 6 in table nat");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings.as_slice() else { panic!("{log}") };
    for part in ["run iptables: it is not in PATH", "install iptables", "forward-rules=false"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
}

#[test]
fn daemon_that_needs_no_rules_runs_no_tool_and_touches_nothing() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let daemon = host.start_without_programs(&host.empty_bin(), &["-iptables-forward-rules=false"]);
    let log = daemon.wait_for("flannel is ready");
    assert!(!log.contains("rules") && !log.contains("WARN"), "{log}");
    assert!(!host.iptables_rules().contains("FLANNEL"));
}

#[test]
fn unusable_table_is_told_and_the_other_is_kept() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let bin = host.bin();
    let real = fs::read_link(bin.join("iptables-restore")).unwrap();
    fs::rename(bin.join("iptables-restore"), bin.join("real")).unwrap();
    let script = format!(
        "#!/bin/sh\ncat > $0.$$\nif grep -q nat $0.$$; then echo 'no table nat' >&2; exit 3; fi\n\
         exec -a iptables-restore {} \"$@\" < $0.$$\n",
        real.display()
    );
    host.write_program("iptables-restore", &script.replace("/bin/sh", "/bin/bash"));
    let daemon = host.start_daemon(&["-ip-masq", "-iptables-resync=1"]);
    let log = daemon.wait_for("flannel is ready");
    assert!(log.contains("Failed to set up rules in table nat: iptables-restore: no table nat"));
    assert_eq!(host.filter(), FILTER);
}

#[test]
fn iptables_that_hangs_keeps_nobody_waiting_but_for_readiness() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    host.write_program("iptables-save", "#!/bin/sh\nexec sleep 1000\n");
    let daemon = host.start_daemon(&[]);
    let peer = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
    host.output(&["etcdctl", "put", "/coreos.com/network/subnets/10.1.99.0-24", peer]);
    let log = daemon.wait_for("Subnet added: 10.1.99.0/24");
    assert!(!log.contains("flannel is ready") && !host.subnet_file().exists(), "{log}");
    let log = daemon.wait_for("flannel is ready");
    assert!(log.contains("iptables-save does not end: killed after 10 s"), "{log}");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
}
