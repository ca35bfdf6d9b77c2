//! The network of these tests, and its expected rules.

/// Allows only the subnet 10.1.15.0/24.
pub const CONFIG: &str =
    r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.15.0","SubnetMax":"10.1.15.0"}"#;

/// What `iptables -S` prints of the rules in [`CONFIG`]'s network.
pub const FILTER: &str = r#"-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N FLANNEL-FWD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"#;

/// And what `iptables -t nat -S` prints.
pub const NAT: &str = r#"-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N FLANNEL-POSTRTG
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.15.0/24 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/16 -d 10.1.15.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.15.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;

/// And `nft list table ip flannel-ipv4`.
pub const NFT_TABLE: &str = "\
table ip flannel-ipv4 {
	comment \"rules for flannel-ipv4\"
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.1.0.0/16 accept
		ip daddr 10.1.0.0/16 accept
	}

	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		ip saddr 10.1.15.0/24 ip daddr 10.1.0.0/16 return
		ip saddr 10.1.0.0/16 ip daddr 10.1.15.0/24 return
		ip saddr != 10.1.0.0/16 ip daddr 10.1.15.0/24 return
		ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random
	}
}
";

/// `config` with nftables turned on.
pub fn nftables(config: &str) -> String {
    config.replacen('{', r#"{"EnableNFTables":true,"#, 1)
}
