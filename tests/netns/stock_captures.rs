//! Compares captures of what stock flanneld leaves on a node with what ours leaves, line by line.

use std::fs;
use std::net::Ipv6Addr;
use std::time::Duration;

use twill::lab::host::wait::wait_for;
use twill::lab::network::backend::Backend;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::etcd::Etcd;
use twill::lab::network::node::Node;
use twill::lab::network::registry::Registry;
use twill::lab::network::topology::GATEWAY;
use twill::lab::{Lab, LabSpec};

use self::captures::{Capture, DIRECT, HOST_GW, VXLAN};
use crate::harness::{FLANNELD, etcdctl, eventually, overlay, spec};

mod captures;

impl Capture {
    /// Brings up A and B, then C, then takes C away, and compares each step.
    fn assert_agrees(&self, topic: &str) {
        let daemon = Daemon::flanneld(FLANNELD).with("-ip-masq=true");
        let config = Some(self.config.to_owned());
        let mut lab =
            Lab::create(LabSpec { config, daemon, num_pods: 0, ..spec(topic, 2) }).unwrap();
        lab.start_all().unwrap();
        self.assert_lines(&lab, "A", self.a, || self.kernel_of(&lab.nodes()[0], true));
        self.assert_lines(&lab, "etcd", self.etcd, || prefix_of(&lab));
        let file = lab.nodes()[0].subnet_file();
        self.assert_lines(&lab, "subnet.env", self.subnet_env, || {
            fs::read_to_string(&file).unwrap()
        });
        let stat = lab.nodes()[0].netns().tool("stat").words("-c").arg("%a %U %F").arg(&file);
        assert_eq!(stat.run().unwrap(), "644 root regular file\n");

        let node = lab.add_node().unwrap();
        node.start().unwrap();
        node.wait_ready().unwrap();
        self.assert_lines(&lab, "C", self.c, || self.kernel_of(&lab.nodes()[2], false));
        assert!(lab.nodes_mut()[2].terminate().unwrap().success());
        self.assert_lines(&lab, "C ended", self.c, || self.kernel_of(&lab.nodes()[2], false));
        assert_eq!(prefix_of(&lab).matches("/subnets/").count(), 3, "C's lease stays");
        let lease = overlay(&lab.nodes()[2]).env.key();
        assert!(lab.etcd().delete_lease(&lease).unwrap());
        self.assert_lines(&lab, "A without C", self.a, || self.kernel_of(&lab.nodes()[0], true));

        assert!(lab.nodes_mut()[0].terminate().unwrap().success());
        self.assert_lines(&lab, "A ended", self.a, || self.kernel_of(&lab.nodes()[0], true));
        let node = &mut lab.nodes_mut()[0];
        node.start().unwrap();
        node.wait_ready().unwrap();
        self.assert_lines(&lab, "A again", self.a, || self.kernel_of(&lab.nodes()[0], true));
        self.assert_lines(&lab, "etcd again", self.etcd, || prefix_of(&lab));
    }

    /// What the kernel of `node` has, as the commands of the captures print it.
    fn kernel_of(&self, node: &Node, with_sysctls: bool) -> String {
        let (netns, device) = (node.netns(), self.device);
        let eth0 = netns.ip("-4 addr show dev eth0").unwrap();
        let routes = netns.ip("-d -4 route show table all").unwrap();
        let routes = lines_with(&routes, |line| {
            line.starts_with("unicast") && !line.contains("dev docker0") // the lab's
        });
        if device.is_empty() {
            assert!(!netns.ip("link").unwrap().contains("flannel"));
            return lines_with(&eth0, |line| line.contains("inet")) + &routes;
        }
        let link = netns.ip(&format!("-d link show {device}")).unwrap();
        let link = link.split("gso_max_size").next().unwrap().to_owned() + "\n";
        let addr = netns.ip(&format!("-4 addr show dev {device}")).unwrap();
        let addr6 = netns.ip("-6 addr").unwrap();
        let neighbours = netns.ip("neigh show nud permanent").unwrap();
        let fdb = netns.tool("bridge").words("fdb show").run().unwrap();
        let addrs = eth0.lines().skip(1).chain(addr.lines()).chain(block_of(&addr6, device));
        let addrs: String = addrs.map(|line| format!("{line}\n")).collect();
        let of_device = |text: &str| lines_with(text, |line| line.contains(device));
        let mut all = link
            + &lines_with(&addrs, |line| !line.contains("valid_lft"))
            + &routes
            + &of_device(&neighbours)
            + &of_device(&fdb);
        if with_sysctls {
            for (family, keys) in [
                ("ipv4", &["rp_filter", "forwarding", "accept_redirects", "send_redirects"][..]),
                ("ipv6", &["disable_ipv6", "accept_ra", "addr_gen_mode"]),
            ] {
                for key in keys {
                    let path = format!("/proc/sys/net/{family}/conf/{device}/{key}");
                    let value = netns.tool("cat").arg(path).run().unwrap();
                    all += &format!("{family}.{device}.{key}={} ", value.trim());
                }
            }
            all.push('\n');
        }
        let number = format!("{}: {device}:", all.split(':').next().unwrap());
        all.replace(&number, &format!("3: {device}:"))
    }

    /// Waits until `ours` has the lines of `stock`, with our lab's addresses for the captured ones.
    fn assert_lines(&self, lab: &Lab, step: &str, stock: &str, ours: impl Fn() -> String) {
        let pairs = self.pairs(lab);
        let differing = self
            .differences
            .iter()
            .fold(stock.to_owned(), |text, (from, to)| text.replace(from, to));
        let expected = sorted(&substitute(&differing, &pairs));
        let mut found = Vec::new();
        let agrees = wait_for(step, Duration::from_secs(15), || {
            found = sorted(&ours());
            Ok((found == expected).then_some(()))
        });
        assert_eq!(found, expected, "{step}");
        agrees.unwrap();
    }

    /// Words of the captures, and what our lab has in their places.
    fn pairs(&self, lab: &Lab) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("192.168.70.0".to_owned(), "192.168.64.0".to_owned()),
            ("192.168.70.254".to_owned(), GATEWAY.to_string()),
        ];
        for (index, node) in lab.nodes().iter().enumerate() {
            let Some(overlay) = node.overlay() else { continue };
            let subnet = overlay.env.subnet.network();
            pairs.push((format!("192.168.70.{}", index + 1), node.addr().to_string()));
            pairs.push((format!("{}.0", self.subnets[index]), subnet.to_string()));
            pairs.push((format!("{}.1", self.subnets[index]), overlay.env.bridge.to_string()));
            if self.device.is_empty() {
                continue;
            }
            let mac = mac(node, self.device);
            if let Some(captured) = [0, 2].iter().position(|with| *with == index) {
                pairs.push((self.link_locals[captured].to_owned(), link_local(&mac)));
            }
            pairs.push((self.macs[index].to_owned(), mac));
        }
        pairs
    }
}

fn mac(node: &Node, device: &str) -> String {
    let link = node.netns().ip(&format!("-br link show {device}")).unwrap();
    link.split_whitespace().nth(2).unwrap().to_owned()
}

/// The link-local address that the kernel makes of a MAC.
fn link_local(mac: &str) -> String {
    let octets: Vec<u16> =
        mac.split(':').map(|octet| u16::from_str_radix(octet, 16).unwrap()).collect();
    let [a, b, c, d, e, f] = octets.try_into().unwrap();
    let words = [0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f];
    Ipv6Addr::from(words).to_string()
}

/// The lines of one device in what `ip addr` prints.
fn block_of<'a>(text: &'a str, device: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(": {device}: ");
    let lines = text.lines().skip_while(move |line| !line.contains(&start));
    lines.enumerate().take_while(|(i, line)| *i == 0 || line.starts_with(' ')).map(|(_, line)| line)
}

fn lines_with(text: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| is_wanted(line)).map(|line| format!("{line}\n")).collect()
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// `text`, with whole words replaced.
fn substitute(text: &str, pairs: &[(String, String)]) -> String {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '.' && c != ':';
    let replaced = text.split_inclusive(is_end).map(|part| {
        let word = part.trim_end_matches(is_end);
        let pair = pairs.iter().find(|(captured, _)| captured == word.trim_start_matches(':'));
        pair.map_or_else(
            || part.to_owned(),
            |(captured, ours)| part.replace(captured.as_str(), ours),
        )
    });
    replaced.collect()
}

/// Keys and values of the prefix, as `etcdctl` prints them.
fn prefix_of(lab: &Lab) -> String {
    etcdctl(etcd_of(lab), &["get", "--prefix", "/coreos.com/network"])
}

fn etcd_of(lab: &Lab) -> &Etcd {
    let Registry::Etcd(etcd) = lab.registry() else { panic!("no etcd") };
    etcd
}

#[test]
fn vxlan_leaves_on_a_node_what_stock_leaves() {
    VXLAN.assert_agrees("capvx");
}

#[test]
fn vxlan_of_another_vni_port_and_mtu_with_direct_routing_leaves_what_stock_leaves() {
    DIRECT.assert_agrees("capdirect");
}

#[test]
fn host_gw_leaves_on_a_node_what_stock_leaves() {
    HOST_GW.assert_agrees("capgw");
}

#[test]
fn leases_of_several_backends_in_one_prefix_leave_what_stock_leaves() {
    let config = Some(Backend::Vxlan.config());
    let mut lab = Lab::create(LabSpec { config, num_pods: 0, ..spec("capmixed", 2) }).unwrap();
    for (subnet, backend) in [("10.5.64.0-24", Backend::HostGw), ("10.5.99.0-24", Backend::Udp)] {
        let value = backend.lease_value("192.168.64.99".parse().unwrap());
        etcdctl(etcd_of(&lab), &["put", &format!("/coreos.com/network/subnets/{subnet}"), &value]);
    }
    lab.start_all().unwrap();
    let peer = overlay(&lab.nodes()[1]).env.subnet.network();
    let addr = lab.nodes()[1].addr();
    let netns = lab.nodes()[0].netns().clone();
    let routes = || {
        let all = netns.ip("-4 route show").unwrap();
        lines_with(&all, |line| line.starts_with("10.5.") && !line.contains("dev docker0"))
    };
    let tunnel = format!("{peer}/24 via {peer} dev flannel.1 onlink \n");
    eventually("the vxlan peer's route to be the only one", || routes() == tunnel);

    // The network moves to host-gw: its routes replace those through the tunnel.
    for node in lab.nodes_mut() {
        assert!(node.terminate().unwrap().success());
    }
    lab.etcd().put_config(&Backend::HostGw.config()).unwrap();
    lab.nodes_mut().iter_mut().for_each(|node| node.start().unwrap());
    // The protocol is ours; a lease of host-gw in the prefix is a peer now, one of udp is not.
    let host_gw = format!(
        "10.5.64.0/24 via 192.168.64.99 dev eth0 proto 82 \n{peer}/24 via {addr} dev eth0 proto 82 \n"
    );
    eventually("host-gw's routes to be the only ones", || sorted(&routes()) == sorted(&host_gw));
}

#[test]
fn group_policy_and_learning_are_in_the_device_and_a_change_of_it_recreates_it() {
    let config =
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","GBP":true,"Learning":true}}"#;
    let config = Some(config.to_owned());
    let mut lab = Lab::up(LabSpec { config, ..spec("capgbp", 2) }).unwrap();
    let addr = lab.nodes()[0].addr();
    let netns = lab.nodes()[0].netns().clone();
    let link = || netns.ip("-d link show flannel.1").unwrap();
    let vxlan = format!("vxlan id 1 local {addr} dev eth0 srcport 0 0 dstport 8472");
    let checksums = "ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx";
    let found = link();
    assert!(found.contains(&format!("{vxlan} ttl auto")), "it learns: {found}");
    assert!(found.contains(&format!("{checksums} gbp addrgenmode")), "{found}");
    let before = mac(&lab.nodes()[0], "flannel.1");

    for node in lab.nodes_mut() {
        assert!(node.terminate().unwrap().success());
    }
    lab.etcd().put_config(&Backend::Vxlan.config()).unwrap();
    for node in lab.nodes_mut() {
        node.start().unwrap();
        node.wait_ready().unwrap();
    }
    let found = link();
    assert!(found.contains(&format!("{vxlan} nolearning {checksums} addrgenmode")), "{found}");
    assert_eq!(mac(&lab.nodes()[0], "flannel.1"), before, "peers need not learn another");
    lab.wait_reachable().unwrap();
}
