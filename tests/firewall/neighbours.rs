//! Two flannelds on one host, each with a network, a prefix and a port of its own.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::expected::{CONFIG, nftables};
use crate::firewall_host::{FirewallHost, LEGACY, NFT};
use crate::host::{Daemon, eventually};

const NET2: &str = r#"{"Network":"10.2.0.0/16","SubnetMin":"10.2.7.0","SubnetMax":"10.2.7.0","Backend":{"Type":"udp","Port":8286}}"#;

#[test]
fn neighbours_rules_in_iptables_over_nftables_are_not_touched() {
    rules_of_both_stay(&FirewallHost::new(NFT), &["iptables-save"], str::to_owned);
}

#[test]
fn neighbours_rules_in_legacy_iptables_are_not_touched() {
    rules_of_both_stay(&FirewallHost::new(LEGACY), &["iptables-save"], str::to_owned);
}

#[test]
fn neighbours_rules_in_nftables_are_not_touched() {
    let list = ["nft", "list", "table", "ip", "flannel-ipv4"];
    rules_of_both_stay(&FirewallHost::new(NFT), &list, nftables);
}

#[test]
fn neighbour_that_keeps_its_rules_with_the_other_tool_keeps_them() {
    let host = FirewallHost::new(NFT);
    put(&host, "/net1", CONFIG);
    put(&host, "/net2", &nftables(NET2));
    let list =
        "iptables-save | grep -c 10.1.0.0; nft list table ip flannel-ipv4 | grep -c 10.2.0.0";
    let counted = || host.output(&["sh", "-c", list]);
    let first = start(&host, "one", "/net1");
    let second = start(&host, "two", "/net2");
    eventually("the rules of both", || (counted() == "7\n7\n").then_some(()));
    first.stop();
    let first = start(&host, "one", "/net1");
    assert_eq!(counted(), "7\n7\n");
    first.stop();
    second.stop();
}

/// A stock flanneld empties both chains when it starts, and at each period deletes and appends all
/// its rules if one is missing.
#[test]
fn stock_neighbour_and_we_settle() {
    let host = FirewallHost::new(NFT);
    put(&host, "/net1", CONFIG);
    let daemon = start(&host, "one", "/net1");
    let stock = r#"
        masq() { iptables -t nat "$1" FLANNEL-POSTRTG $2 -m comment --comment 'flanneld masq' $3; }
        each() { masq $1 '-m mark --mark 0x4000/0x4000' '-j RETURN'
            masq $1 '-s 10.2.7.0/24 -d 10.2.0.0/16' '-j RETURN'
            masq $1 '-s 10.2.0.0/16 ! -d 224.0.0.0/4' '-j MASQUERADE --random-fully'; }
        [ "$0" = start ] && iptables -t nat -F FLANNEL-POSTRTG
        each -C 2>/dev/null || { each -D 2>/dev/null; each -A; echo recreated; }"#;
    let stock = |how: &str| host.output(&["sh", "-c", stock, how]);
    stock("start");
    let is_settled = || {
        let before = host.nat();
        let (theirs, logged) = (stock("look"), daemon.log());
        // Longer than a period of ours.
        thread::sleep(Duration::from_millis(2500));
        let is_ours = before.contains("10.1.15.0/24") && before.contains("10.2.7.0/24");
        (is_ours && theirs.is_empty() && host.nat() == before && daemon.log() == logged)
            .then_some(())
    };
    eventually("both are content", is_settled);
    daemon.stop();
}

/// `list` prints the rules, `config` turns a network config into that of the tool.
fn rules_of_both_stay(host: &FirewallHost, list: &[&str], config: fn(&str) -> String) {
    put(host, "/net1", &config(CONFIG));
    put(host, "/net2", &config(NET2));
    let first = start(host, "one", "/net1");
    let second = never_missing(host, list, "10.1.0.0/16", || {
        start(host, "two", "/net2").stop();
        start(host, "two", "/net2")
    });
    first.stop();
    let first = never_missing(host, list, "10.2.0.0/16", || start(host, "one", "/net1"));
    let rules = eventually("all rules", || {
        let rules = host.output(list);
        let num = |network| rules.matches(network).count();
        (num("10.1.0.0/16") == 8 && num("10.2.0.0/16") == 8).then_some(rules)
    });
    let marks = rules.lines().filter(|line| line.contains("mark 0x"));
    assert_eq!(marks.count(), 1, "{rules}");
    eventually("nobody writes any more", || {
        let logged = (first.log(), second.log());
        thread::sleep(Duration::from_millis(3500)); // three periods of both
        ((first.log(), second.log()) == logged).then_some(())
    });
    assert!(!(first.log() + &second.log()).contains("deleting and recreating"));
    assert_eq!(strip(&host.output(list)), strip(&rules));
    first.stop();
    second.stop();
}

/// Rules without counters and dates.
fn strip(rules: &str) -> Vec<String> {
    let lines = rules.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect()
}

/// Checks repeatedly while `act` runs that all rules about `network` are there.
fn never_missing<T>(
    host: &FirewallHost,
    list: &[&str],
    network: &str,
    act: impl FnOnce() -> T,
) -> T {
    let count = || host.output(list).matches(network).count();
    let wanted = eventually("the rules", || Some(count()).filter(|num| *num >= 8));
    let is_over = AtomicBool::new(false);
    let mut command: Command = host.command(list);
    thread::scope(|scope| {
        let is_over = &is_over;
        let looks = scope.spawn(move || {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                let output = command.output().unwrap();
                let rules = crate::host::text(&output.stdout);
                assert_eq!(rules.matches(network).count(), wanted, "look {looks}: {rules}");
                looks += 1;
            }
            looks
        });
        let done = act();
        is_over.store(true, Ordering::Relaxed);
        assert!(looks.join().unwrap() > 0, "too fast to be watched");
        done
    })
}

fn put(host: &FirewallHost, prefix: &str, config: &str) {
    host.etcdctl(&["put", &format!("{prefix}/config"), config]);
}

fn start(host: &FirewallHost, name: &str, prefix: &str) -> Daemon {
    let flags = ["-iface=10.0.0.7", "-ip-masq", "-iptables-resync=1", "-etcd-prefix", prefix];
    let daemon = host.start(name, &flags);
    daemon.wait_for("flannel is ready");
    daemon
}
