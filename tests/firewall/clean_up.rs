//! `flanneld --cleanup`.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::expected::CONFIG;
use crate::firewall_host::{FirewallHost, LEGACY, NFT};
use crate::host::{FLANNELD, eventually, text};

#[test]
fn clean_up_leaves_iptables_over_nftables_as_before() {
    clean_up_leaves_all_as_before(NFT);
}

#[test]
fn clean_up_leaves_legacy_iptables_as_before() {
    clean_up_leaves_all_as_before(LEGACY);
}

fn clean_up_leaves_all_as_before(kind: &str) {
    let host = FirewallHost::new(kind);
    host.put_config(CONFIG);
    host.output(&["iptables", "-A", "FORWARD", "-s", "10.1.0.0/17", "-j", "ACCEPT"]);
    host.output(&["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "lo", "-j", "ACCEPT"]);
    let (before, links) = (host.iptables_rules(), host.output(&["ip", "-br", "link"]));
    let daemon = host.start_daemon(&["-ip-masq", "-ip-blackhole-route"]);
    daemon.wait_for("flannel is ready");
    daemon.wait_for("blackhole route is in place");
    for table in ["filter", "nat"] {
        eventually(table, || {
            let log = daemon.log();
            let is_of_table = |line: &str| {
                line.contains("rules are in place: ") && line.contains(&format!("table {table},"))
            };
            log.lines().any(is_of_table).then_some(())
        });
    }
    let refused = host.clean_up();
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    let pid = daemon.pid();
    assert!(stderr.contains(&format!("flanneld is running with pid {pid}: stop it")), "{stderr}");
    daemon.stop();
    for leftover in [
        "iptables -t nat -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "iptables -A FORWARD -d 10.7.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT",
        "ip tuntap add flannel7 mode tun && ip link set flannel7 up",
        "nft add table ip6 flannel-ipv6",
    ] {
        host.output(&["sh", "-c", leftover]);
    }
    let state = host.dir.path().join("subnet.state.json");
    fs::write(&state, "{}").unwrap();
    // A tool that waits for an answer is no daemon.
    let silent = host.dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent).unwrap();
    let status = [FLANNELD, "status", "--socket", silent.to_str().unwrap()];
    let mut tool = host.command(&status).stderr(Stdio::null()).spawn().unwrap();
    let cleaned = host.clean_up();
    tool.kill().unwrap();
    tool.wait().unwrap();
    let stdout = text(&cleaned.stdout);
    assert!(!state.exists(), "{stdout}{}", text(&cleaned.stderr));
    assert!(cleaned.status.success(), "{}", text(&cleaned.stderr));
    let file = format!("removed file {}\n", host.subnet_file().display());
    for line in [
        "removed chain FLANNEL-FWD (iptables, table filter)\n",
        "removed chain FLANNEL-POSTRTG (iptables, table nat)\n",
        "removed rule -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE (",
        "removed table ip6 flannel-ipv6 (nft)\n",
        "removed device flannel7\n",
        "removed route blackhole 10.1.15.0/24\n",
        &file,
    ] {
        assert!(stdout.contains(line), "no {line} in {stdout}");
    }
    assert_eq!(host.iptables_rules(), before);
    assert_eq!(host.output(&["ip", "-br", "link"]), links);
    assert_eq!(host.output(&["ip", "route"]), "");
    assert_eq!(host.output(&["nft", "list", "tables", "ip6"]), "");
    let again = host.clean_up();
    assert!(again.status.success() && again.stderr.is_empty(), "{}", text(&again.stderr));
    assert_eq!(text(&again.stdout), "nothing to remove\n");
    if kind == NFT {
        let legacy = host.output(&["cat", "/proc/net/ip_tables_names"]);
        assert_eq!(legacy, "", "looking for rules made tables");
    }
}
