//! Tools that are missing, fail or hang.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::expected::{CONFIG, FILTER, NAT};
use crate::firewall_host::{FirewallHost, LEGACY, NFT};
use crate::host::eventually;

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
    eventually("the rules", || host.has_rules(FILTER, NAT).then_some(()));
}

#[test]
fn daemon_that_needs_no_rules_runs_no_tool_and_touches_nothing() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let daemon = host.start_without_programs(&host.empty_bin(), &["-iptables-forward-rules=false"]);
    let log = daemon.wait_for("flannel is ready");
    // The first line repeats the flags.
    let mut lines = log.lines().filter(|line| !line.contains(" starts: "));
    assert!(!lines.any(|line| line.contains("rules") || line.contains("WARN")), "{log}");
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
    daemon.wait_for("Failed to set up rules in table nat: iptables-restore: no table nat");
    eventually("the other table", || (host.filter() == FILTER).then_some(()));
}

#[test]
fn iptables_that_hangs_keeps_nobody_waiting() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    host.write_program("iptables-save", "#!/bin/sh\nexec sleep 1000\n");
    let daemon = host.start_daemon(&[]);
    let peer = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
    host.output(&["etcdctl", "put", "/coreos.com/network/subnets/10.1.99.0-24", peer]);
    daemon.wait_for("Subnet added: 10.1.99.0/24");
    let log = daemon.wait_for("flannel is ready");
    assert!(!log.contains("iptables-save does not end"), "ready before it is given up: {log}");
    daemon.wait_for("iptables-save does not end: killed after 10 s");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
}

#[test]
fn lock_of_legacy_iptables_is_waited_for_and_not_kept() {
    let host = FirewallHost::new(LEGACY);
    host.put_config(CONFIG);
    let lock = host.dir.path().join("lock");
    let lock = lock.to_str().unwrap();
    // Another program holds it until a file appears.
    let script = "echo held; until [ -e $0.free ]; do sleep 0.1; done";
    let mut holder = host.command(&["flock", lock, "sh", "-c", script, lock]);
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let daemon = host.start_daemon(&["-iptables-resync=1"]);
    let pid = daemon.pid().to_string();
    eventually("flanneld waits for the lock", || {
        let waiting = ["pgrep", "--parent", &pid, "--full", "iptables-restore"];
        host.command(&waiting).output().unwrap().status.success().then_some(())
    });
    fs::write(format!("{lock}.free"), "").unwrap();
    assert!(holder.wait().unwrap().success());
    let log = daemon.wait_for("rules are in place: 2 in table filter");
    assert!(!log.contains("Failed to set up rules"), "{log}");
    assert_eq!(host.filter(), FILTER);
    for _ in 0..20 {
        // Free at every check, also while the daemon checks its rules.
        host.output(&["flock", "--timeout", "1", lock, "true"]);
    }
}

#[test]
fn host_that_does_not_forward_is_told_how_to() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let forward = |value: &str| {
        host.output(&["sh", "-c", "echo $0 > /proc/sys/net/ipv4/ip_forward", value]);
        let daemon = host.start_daemon(&[]);
        let log = daemon.wait_for("flannel is ready");
        daemon.stop();
        log.contains("run `sysctl -w net.ipv4.ip_forward=1`")
    };
    assert!(forward("0"));
    assert!(!forward("1"));
}
