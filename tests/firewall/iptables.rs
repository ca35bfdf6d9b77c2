//! Rules in iptables of either kind.

use std::fs;

use crate::expected::{CONFIG, FILTER, NAT};
use crate::firewall_host::{FirewallHost, LEGACY, NFT};
use crate::host::eventually;

#[test]
fn iptables_over_nftables_is_kept_as_stock_keeps_it() {
    iptables_is_kept_as_stock_keeps_it(NFT);
}

#[test]
fn legacy_iptables_is_kept_as_stock_keeps_it() {
    iptables_is_kept_as_stock_keeps_it(LEGACY);
}

fn iptables_is_kept_as_stock_keeps_it(kind: &str) {
    let host = FirewallHost::new(kind);
    host.put_config(CONFIG);
    let daemon = host.start_daemon(&["-ip-masq", "-iptables-resync=1"]);
    daemon.wait_for("flannel is ready");
    eventually("the rules", || host.has_rules(FILTER, NAT).then_some(()));
    assert!(fs::read_to_string(host.subnet_file()).unwrap().contains("FLANNEL_IPMASQ=true\n"));
    for damage in [
        "iptables -t nat -D FLANNEL-POSTRTG 3",
        // The first rule goes last.
        "iptables -t nat -D FLANNEL-POSTRTG 1 && iptables -t nat -A FLANNEL-POSTRTG -m mark \
         --mark 0x4000/0x4000 -m comment --comment 'flanneld masq' -j RETURN",
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -t nat -D POSTROUTING 1",
        "iptables -t nat -F && iptables -t nat -X",
    ] {
        host.output(&["sh", "-c", damage]);
        assert_ne!(host.nat(), NAT, "{damage}");
        eventually(damage, || (host.nat() == NAT).then_some(()));
    }
    host.output(&["iptables", "-I", "FLANNEL-FWD", "-s", "10.9.0.0/16", "-j", "ACCEPT"]);
    host.output(&["iptables", "-D", "FLANNEL-FWD", "2"]);
    let restored = || Some(host.filter()).filter(|filter| filter.contains("-s 10.1.0.0/16"));
    let filter = eventually("the rule is back", restored);
    assert!(filter.contains("-A FLANNEL-FWD -s 10.9.0.0/16 -j ACCEPT\n"), "not ours: {filter}");
    daemon.signal("TERM");
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Some iptables rules are missing; deleting and recreating rules"));
    assert_eq!((host.filter(), host.nat()), (filter, NAT.to_owned()), "rules stay");
}

#[test]
fn restart_leaves_no_gap_in_iptables_over_nftables_and_a_change_nothing_stale() {
    restart_leaves_no_gap_and_a_change_nothing_stale(NFT);
}

#[test]
fn restart_leaves_no_gap_in_legacy_iptables_and_a_change_nothing_stale() {
    restart_leaves_no_gap_and_a_change_nothing_stale(LEGACY);
}

fn restart_leaves_no_gap_and_a_change_nothing_stale(kind: &str) {
    let host = FirewallHost::new(kind);
    host.put_config(CONFIG);
    host.run_until_rules(&["-ip-masq"], FILTER, NAT);
    let daemon = host.start_daemon(&["-ip-masq"]);
    let looks = host.watch_start(&daemon, || {
        assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
    });
    assert!(looks > 0, "too fast to be watched");
    daemon.signal("TERM");
    let (_, log) = daemon.end();
    assert!(!log.contains("rules are in place"), "nothing was to be changed: {log}");

    host.put_config(&CONFIG.replace("10.1.15.0", "10.1.16.0"));
    host.run_until_rules(&["-ip-masq"], FILTER, &NAT.replace("10.1.15.0", "10.1.16.0"));
    host.put_config(&CONFIG.replace("10.1.", "10.2."));
    let filter = FILTER.replace("10.1.", "10.2.");
    let nat = NAT.replace("10.1.", "10.2.").replace(" --random-fully", "");
    host.run_until_rules(&["-ip-masq", "-ip-masq-fully-random-disable"], &filter, &nat);
}
