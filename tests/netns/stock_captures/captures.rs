//! Captures of stock nodes, verbatim but for the line of the link `eth0` and all from
//! `gso_max_size` on, which are the kernel's alone. vxlan's are of 0.28.9, host-gw's of 0.20.2, which
//! differ from those of the other version in nothing but random numbers.

/// What the captures of one backend config have of nodes A, B and C.
pub struct Capture {
    pub config: &'static str,
    /// Empty where there is none.
    pub device: &'static str,
    /// Subnets of A, B and C without the last number.
    pub subnets: [&'static str; 3],
    pub macs: [&'static str; 3],
    /// Link-local addresses of A and C on the device.
    pub link_locals: [&'static str; 2],
    /// What A has, with B as its peer.
    pub a: &'static str,
    /// What C has, with both as its peers, after it ended.
    pub c: &'static str,
    /// Keys and values of the prefix, with A and B.
    pub etcd: &'static str,
    /// The file of A.
    pub subnet_env: &'static str,
    /// What we do otherwise, as the CHANGELOG says.
    pub differences: &'static [(&'static str, &'static str)],
}

pub const VXLAN: Capture = Capture {
    config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    device: "flannel.1",
    subnets: ["10.5.86", "10.5.3", "10.5.75"],
    macs: ["3a:fb:f5:16:d0:30", "16:33:a3:4f:a8:da", "36:64:49:78:ac:85"],
    link_locals: ["fe80::38fb:f5ff:fe16:d030", "fe80::3464:49ff:fe78:ac85"],
    a: "\
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default 
    link/ether 3a:fb:f5:16:d0:30 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    vxlan id 1 local 192.168.70.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64 numtxqueues 1 numrxqueues 1 
    inet 192.168.70.1/24 scope global eth0
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN group default 
    inet 10.5.86.0/32 scope global flannel.1
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 state UNKNOWN 
    inet6 fe80::38fb:f5ff:fe16:d030/64 scope link 
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.3.0/24 via 10.5.3.0 dev flannel.1 table main proto boot scope global onlink 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.1 
10.5.3.0 dev flannel.1 lladdr 16:33:a3:4f:a8:da PERMANENT 
16:33:a3:4f:a8:da dev flannel.1 dst 192.168.70.2 self permanent
ipv4.flannel.1.rp_filter=0 ipv4.flannel.1.forwarding=1 ipv4.flannel.1.accept_redirects=1 ipv4.flannel.1.send_redirects=1 ipv6.flannel.1.disable_ipv6=0 ipv6.flannel.1.accept_ra=0 ipv6.flannel.1.addr_gen_mode=0 
",
    c: "\
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default 
    link/ether 36:64:49:78:ac:85 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    vxlan id 1 local 192.168.70.3 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64 numtxqueues 1 numrxqueues 1 
    inet 192.168.70.3/24 scope global eth0
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN group default 
    inet 10.5.75.0/32 scope global flannel.1
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 state UNKNOWN 
    inet6 fe80::3464:49ff:fe78:ac85/64 scope link 
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.3.0/24 via 10.5.3.0 dev flannel.1 table main proto boot scope global onlink 
unicast 10.5.86.0/24 via 10.5.86.0 dev flannel.1 table main proto boot scope global onlink 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.3 
10.5.3.0 dev flannel.1 lladdr 16:33:a3:4f:a8:da PERMANENT 
10.5.86.0 dev flannel.1 lladdr 3a:fb:f5:16:d0:30 PERMANENT 
3a:fb:f5:16:d0:30 dev flannel.1 dst 192.168.70.1 self permanent
16:33:a3:4f:a8:da dev flannel.1 dst 192.168.70.2 self permanent
",
    etcd: r#"/coreos.com/network/config
{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}
/coreos.com/network/subnets/10.5.3.0-24
{"PublicIP":"192.168.70.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"16:33:a3:4f:a8:da"}}
/coreos.com/network/subnets/10.5.86.0-24
{"PublicIP":"192.168.70.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"3a:fb:f5:16:d0:30"}}
"#,
    subnet_env: "\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.86.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
",
    differences: &[],
};

pub const DIRECT: Capture = Capture {
    config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"DirectRouting":true}}"#,
    device: "flannel.7",
    subnets: ["10.5.83", "10.5.18", "10.5.99"],
    macs: ["46:ce:42:c1:3a:81", "96:4a:80:ba:61:3c", "da:28:fe:fa:d0:48"],
    link_locals: ["fe80::44ce:42ff:fec1:3a81", "fe80::d828:feff:fefa:d048"],
    a: "\
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 qdisc noqueue state UNKNOWN mode DEFAULT group default 
    link/ether 46:ce:42:c1:3a:81 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    vxlan id 7 local 192.168.70.1 dev eth0 srcport 0 0 dstport 4789 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64 numtxqueues 1 numrxqueues 1 
    inet 192.168.70.1/24 scope global eth0
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 qdisc noqueue state UNKNOWN group default 
    inet 10.5.83.0/32 scope global flannel.7
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 state UNKNOWN 
    inet6 fe80::44ce:42ff:fec1:3a81/64 scope link 
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.18.0/24 via 192.168.70.2 dev eth0 table main proto boot scope global 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.1 
ipv4.flannel.7.rp_filter=0 ipv4.flannel.7.forwarding=1 ipv4.flannel.7.accept_redirects=1 ipv4.flannel.7.send_redirects=1 ipv6.flannel.7.disable_ipv6=0 ipv6.flannel.7.accept_ra=0 ipv6.flannel.7.addr_gen_mode=0 
",
    c: "\
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 qdisc noqueue state UNKNOWN mode DEFAULT group default 
    link/ether da:28:fe:fa:d0:48 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    vxlan id 7 local 192.168.70.3 dev eth0 srcport 0 0 dstport 4789 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64 numtxqueues 1 numrxqueues 1 
    inet 192.168.70.3/24 scope global eth0
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 qdisc noqueue state UNKNOWN group default 
    inet 10.5.99.0/32 scope global flannel.7
3: flannel.7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1350 state UNKNOWN 
    inet6 fe80::d828:feff:fefa:d048/64 scope link 
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.18.0/24 via 192.168.70.2 dev eth0 table main proto boot scope global 
unicast 10.5.83.0/24 via 192.168.70.1 dev eth0 table main proto boot scope global 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.3 
",
    etcd: r#"/coreos.com/network/config
{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"DirectRouting":true}}
/coreos.com/network/subnets/10.5.18.0-24
{"PublicIP":"192.168.70.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"96:4a:80:ba:61:3c"}}
/coreos.com/network/subnets/10.5.83.0-24
{"PublicIP":"192.168.70.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"46:ce:42:c1:3a:81"}}
"#,
    subnet_env: "\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.83.1/24
FLANNEL_MTU=1350
FLANNEL_IPMASQ=true
",
    differences: OWN_PROTOCOL,
};

pub const HOST_GW: Capture = Capture {
    config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
    device: "",
    subnets: ["10.5.46", "10.5.62", "10.5.35"],
    macs: [""; 3],
    link_locals: [""; 2],
    a: "    inet 192.168.70.1/24 scope global eth0
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.62.0/24 via 192.168.70.2 dev eth0 table main proto boot scope global 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.1 
",
    c: "    inet 192.168.70.3/24 scope global eth0
unicast default via 192.168.70.254 dev eth0 table main proto boot scope global 
unicast 10.5.46.0/24 via 192.168.70.1 dev eth0 table main proto boot scope global 
unicast 10.5.62.0/24 via 192.168.70.2 dev eth0 table main proto boot scope global 
unicast 192.168.70.0/24 dev eth0 table main proto kernel scope link src 192.168.70.3 
",
    etcd: r#"/coreos.com/network/config
{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}
/coreos.com/network/subnets/10.5.46.0-24
{"PublicIP":"192.168.70.1","PublicIPv6":null,"BackendType":"host-gw"}
/coreos.com/network/subnets/10.5.62.0-24
{"PublicIP":"192.168.70.2","PublicIPv6":null,"BackendType":"host-gw"}
"#,
    subnet_env: "\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.46.1/24
FLANNEL_MTU=1500
FLANNEL_IPMASQ=true
",
    differences: OWN_PROTOCOL,
};

/// Plain routes to peers have a protocol number by which we know them.
const OWN_PROTOCOL: &[(&str, &str)] = &[
    ("192.168.70.1 dev eth0 table main proto boot", "192.168.70.1 dev eth0 table main proto 82"),
    ("192.168.70.2 dev eth0 table main proto boot", "192.168.70.2 dev eth0 table main proto 82"),
];
