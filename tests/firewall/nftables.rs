//! Rules in nftables, and the change from one tool to the other.

use crate::expected::{CONFIG, FILTER, NAT, NFT_TABLE, nftables};
use crate::firewall_host::{FirewallHost, NFT};
use crate::host::eventually;

#[test]
fn nftables_mode_keeps_its_table() {
    let host = FirewallHost::new(NFT);
    host.put_config(&nftables(CONFIG));
    let daemon = host.start_daemon(&["-ip-masq", "-iptables-resync=1"]);
    daemon.wait_for("flannel is ready");
    eventually("the table", || (host.nft_table() == NFT_TABLE).then_some(()));
    assert!(!host.iptables_rules().contains("FLANNEL"));
    for damage in [
        "nft flush chain ip flannel-ipv4 forward",
        "nft delete rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 \
         postrtg | sed -n 's/.*0x00004000.* handle //p')",
        "nft 'flush chain ip flannel-ipv4 forward; \
         add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept; \
         add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept'",
        "nft delete chain ip flannel-ipv4 postrtg",
        "nft delete table ip flannel-ipv4",
    ] {
        host.output(&["sh", "-c", damage]);
        assert_ne!(host.nft_table(), NFT_TABLE, "{damage}");
        eventually(damage, || (host.nft_table() == NFT_TABLE).then_some(()));
    }
    daemon.signal("TERM");
    let (_, log) = daemon.end();
    assert!(log.contains("Some nftables rules are missing"), "{log}");

    let daemon = host.start_daemon(&["-ip-masq"]);
    let looks = host.watch_start(&daemon, || assert_eq!(host.nft_table(), NFT_TABLE, "a gap"));
    assert!(looks > 0, "too fast to be watched");
    daemon.stop();
    host.put_config(&nftables(CONFIG).replace("10.1.15.0", "10.1.16.0"));
    let moved = NFT_TABLE.replace("10.1.15.0", "10.1.16.0");
    host.run_until(&["-ip-masq"], &moved, || host.nft_table() == moved);
    host.run_until(&[], "no masquerading", || {
        let table = host.nft_table();
        table.contains("chain forward") && !table.contains("postrtg")
    });
}

#[test]
fn rules_of_the_tool_not_in_use_are_removed() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    host.run_until_rules(&["-ip-masq"], FILTER, NAT);
    host.put_config(&nftables(CONFIG));
    host.run_until(&["-ip-masq"], "nftables alone", || {
        !host.iptables_rules().contains("FLANNEL") && host.nft_table() == NFT_TABLE
    });
    host.put_config(CONFIG);
    host.run_until(&["-ip-masq"], "iptables alone", || {
        host.has_rules(FILTER, NAT) && host.nft_table().is_empty()
    });
}
