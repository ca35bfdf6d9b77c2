//! vxlan and host-gw: the kernel forwards, flanneld keeps its tables.

use std::thread;
use std::time::Duration;

use twill::lab::host::netns::Netns;
use twill::lab::network::backend::Backend;
use twill::lab::network::node::Node;
use twill::lab::traffic::udp;
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNELD, assert_tcp_is_whole, etcdctl, eventually, failing_checks, generator, overlay, pod,
    spec,
};

fn lab_of(topic: &str, config: &str, num_nodes: usize) -> Lab {
    let config = Some(config.to_owned());
    Lab::up(LabSpec { config, ..spec(topic, num_nodes) }).unwrap()
}

fn lab(topic: &str, backend: Backend, num_nodes: usize) -> Lab {
    lab_of(topic, &backend.config(), num_nodes)
}

fn bridge(netns: &Netns, args: &str) -> String {
    netns.tool("bridge").words(args).run().unwrap()
}

/// What a node has in the kernel for its peers: neighbours, forwarding entries and routes.
fn entries(node: &Node) -> (String, String, String) {
    let netns = node.netns();
    let neighbours = netns.ip("neigh show dev flannel.1 nud permanent").unwrap();
    let routes = netns.ip("-4 route show dev flannel.1").unwrap();
    (neighbours, bridge(netns, "fdb show dev flannel.1"), routes)
}

fn mac(node: &Node) -> String {
    node.netns()
        .ip("-br link show flannel.1")
        .unwrap()
        .split_whitespace()
        .nth(2)
        .unwrap()
        .to_owned()
}

fn network_of(node: &Node) -> String {
    overlay(node).env.key().replace('-', "/")
}

#[test]
fn tcp_is_whole_through_vxlan() {
    let lab = lab("vxlan", Backend::Vxlan, 2);
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 8);
}

#[test]
fn vxlan_device_that_somebody_breaks_is_whole_again_with_its_peers() {
    let lab = lab("vxbreak", Backend::Vxlan, 2);
    let netns = lab.nodes()[0].netns();
    let (before, address) = (entries(&lab.nodes()[0]), mac(&lab.nodes()[0]));
    for accident in [
        "link delete flannel.1",
        "link set flannel.1 down",
        "addr flush dev flannel.1",
        "link set eth0 down",
        "neigh flush dev flannel.1 nud permanent",
        "route flush dev flannel.1",
        "link set flannel.1 mtu 1300",
        "link set flannel.1 address 02:00:00:00:00:01",
    ] {
        netns.ip(accident).unwrap();
        if accident.contains("eth0") {
            netns.ip("link set eth0 up").unwrap();
        }
        let is_whole = || {
            let mtu = netns.ip("link show flannel.1").is_ok_and(|link| link.contains("mtu 1450"));
            mtu && entries(&lab.nodes()[0]) == before && mac(&lab.nodes()[0]) == address
        };
        eventually(accident, is_whole);
        lab.wait_reachable().unwrap();
    }
}

#[test]
fn kernel_forwards_through_kill_restart_and_an_absent_etcd_without_a_loss() {
    for (topic, backend) in [("vxkill", Backend::Vxlan), ("gwkill", Backend::HostGw)] {
        let mut lab = lab(topic, backend, 2);
        let state = lab.nodes()[1].subnet_file().with_extension("state.json");
        eventually("the state file to be written", || state.exists());
        let server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
        let (client, addr) = (pod(&lab, 0).netns.clone(), pod(&lab, 1).addr);
        let plan = udp::Plan { sizes: vec![1200], count: 2000, time: Duration::from_secs(6) };
        let flow = thread::spawn(move || generator().udp(&client, addr, &plan));
        lab.nodes_mut()[0].kill();
        lab.etcd().stop();
        let node = &mut lab.nodes_mut()[1];
        node.kill();
        node.start().unwrap();
        node.wait_ready().unwrap();
        lab.etcd().start_again().unwrap();
        let node = &mut lab.nodes_mut()[0];
        node.start().unwrap();
        node.wait_ready().unwrap();
        let report = flow.join().unwrap().unwrap();
        assert_eq!((report.answered, report.corrupt), (report.sent, 0), "{report:?}");
        drop(server);
    }
}

#[test]
fn what_no_lease_asks_for_is_removed_after_a_restart_and_the_rest_is_not_touched() {
    let mut lab = lab("vxstale", Backend::Vxlan, 3);
    let gone = overlay(&lab.nodes()[2]).env.key();
    lab.nodes_mut()[0].kill();
    lab.nodes_mut()[2].kill();
    assert!(lab.etcd().delete_lease(&gone).unwrap());
    let netns = lab.nodes()[0].netns();
    netns.ip("neigh add 10.5.250.0 lladdr 02:00:00:00:00:09 nud permanent dev flannel.1").unwrap();
    bridge(netns, "fdb add 02:00:00:00:00:09 dev flannel.1 dst 192.168.64.99");
    // Not ours: outside of the network, or by another link.
    netns.ip("route add 10.99.0.0/24 dev flannel.1").unwrap();
    netns.ip("route add 10.5.251.0/24 dev eth0 proto static").unwrap();
    // On our device, but not by stock's protocol or scope.
    netns.ip("route add 10.5.252.0/24 dev flannel.1 proto static").unwrap();
    netns.ip("route add 10.5.253.0/24 via 10.5.253.0 dev flannel.1 onlink proto 99").unwrap();
    let node = &mut lab.nodes_mut()[0];
    node.start().unwrap();
    node.wait_ready().unwrap();
    let peer = network_of(&lab.nodes()[1]);
    eventually("only the peer's entries to be left", || {
        let (neighbours, fdb, routes) = entries(&lab.nodes()[0]);
        let lines = |text: &str| text.lines().count();
        (lines(&neighbours), lines(&fdb)) == (1, 1) && lines(&routes) == 2 && routes.contains(&peer)
    });
    let routes = lab.nodes()[0].netns().ip("route").unwrap();
    assert!(routes.contains("10.99.0.0/24 dev flannel.1"), "{routes}");
    assert!(routes.contains("10.5.251.0/24 dev eth0"), "{routes}");
}

#[test]
fn host_gw_routes_are_repaired_replaced_and_removed_by_their_mark() {
    let mut lab = lab("hostgw", Backend::HostGw, 3);
    assert_eq!(overlay(&lab.nodes()[0]).env.mtu, 1500);
    let (peer, gone) = (network_of(&lab.nodes()[1]), network_of(&lab.nodes()[2]));
    let route = format!("{peer} via {} dev eth0 proto 82", lab.nodes()[1].addr());
    let netns = lab.nodes()[0].netns().clone();
    let routes = || netns.ip("-4 route").unwrap();
    assert!(routes().contains(&route), "{}", routes());
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);

    netns.ip(&format!("route delete {peer}")).unwrap();
    eventually("a deleted route to be back", || routes().contains(&route));
    netns.ip("link set eth0 down").unwrap();
    netns.ip("link set eth0 up").unwrap();
    eventually("routes to be back with their link", || routes().contains(&route));

    // A peer that leaves while the daemon is stopped, and a route that stock left.
    lab.nodes_mut()[0].kill();
    netns.ip(&format!("route replace {peer} via 192.168.64.77 dev eth0")).unwrap();
    let key = gone.replace('/', "-");
    lab.nodes_mut()[2].kill();
    assert!(lab.etcd().delete_lease(&key).unwrap());
    let node = &mut lab.nodes_mut()[0];
    node.start().unwrap();
    node.wait_ready().unwrap();
    eventually("leftovers to go", || routes().contains(&route) && !routes().contains(&gone));

    assert!(lab.nodes_mut()[0].terminate().unwrap().success());
    assert!(routes().contains(&route), "packets go on");
    let cleanup = netns.tool(FLANNELD).words("--cleanup --subnet-file=/nonexistent/subnet.env");
    let cleaned = cleanup.run();
    eventually("marked routes to be gone", || !routes().contains("proto 82"));
    drop(cleaned);
}

#[test]
fn leases_that_cannot_be_followed_stop_nobody() {
    let lab = lab("vxodd", Backend::Vxlan, 2);
    let etcd = lab.registry();
    let put = |subnet: &str, value: &str| {
        let key = format!("/coreos.com/network/subnets/{subnet}");
        let twill::lab::network::registry::Registry::Etcd(etcd) = etcd else { panic!("no etcd") };
        etcdctl(etcd, &["put", &key, value]);
    };
    for (subnet, value) in [
        ("10.5.240.0-24", r#"{"PublicIP":"192.168.64.90"}"#),
        ("10.5.241.0-24", r#"{"PublicIP":"192.168.64.91","BackendType":"host-gw"}"#),
        ("10.5.242.0-24", r#"{"PublicIP":"192.168.64.92","BackendType":"vxlan"}"#),
        (
            "10.5.243.0-24",
            r#"{"PublicIP":"192.168.64.93","BackendType":"vxlan","BackendData":null}"#,
        ),
        (
            "10.5.244.0-24",
            r#"{"PublicIP":"0.0.0.0","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:07"}}"#,
        ),
        ("10.5.245.0-24", "junk"),
        (
            "10.5.246.0-24",
            r#"{"PublicIP":"192.168.64.96","BackendType":"vxlan","BackendData":{"vtepmac":"02:00:00:00:00:08"}}"#,
        ),
    ] {
        put(subnet, value);
    }
    let routes = || lab.nodes()[0].netns().ip("-4 route show dev flannel.1").unwrap();
    eventually("the last of them to be a peer", || routes().contains("10.5.246.0/24"));
    assert_eq!(routes().lines().count(), 2, "{}", routes());
    assert_eq!(failing_checks(&lab.nodes()[0]), [""; 0]);
    lab.wait_reachable().unwrap();
}

#[test]
fn device_of_another_kind_ends_the_daemon_with_a_line_that_says_what_to_do() {
    let config = Some(Backend::Vxlan.config());
    let mut lab = Lab::create(LabSpec { config, ..spec("vxname", 1) }).unwrap();
    lab.nodes()[0].netns().ip("link add flannel.1 type bridge").unwrap();
    let node = &mut lab.nodes_mut()[0];
    node.start().unwrap();
    let status = node.wait_end(Duration::from_secs(15)).unwrap();
    assert_eq!(status.code(), Some(1));
    let said = node.log_tail(1);
    assert!(said.contains("ip link delete flannel.1"), "{said}");
    assert!(lab.etcd().leases().unwrap().is_empty(), "nothing was promised");
}

#[test]
fn node_whose_interface_gets_another_address_keeps_subnet_and_mac() {
    for (topic, backend) in [("vxaddr", Backend::Vxlan), ("gwaddr", Backend::HostGw)] {
        let mut lab = lab(topic, backend, 2);
        let (key, before) = (overlay(&lab.nodes()[0]).env.key(), lab.nodes()[0].addr());
        let after = std::net::Ipv4Addr::from_bits(before.to_bits() + 100).to_string();
        let value = |lab: &mut Lab| {
            let leases = lab.etcd().leases().unwrap();
            leases.into_iter().find(|(other, _)| *other == key).unwrap().1
        };
        let old = value(&mut lab);
        let netns = lab.nodes()[0].netns().clone();
        netns.ip("addr flush dev eth0").unwrap();
        netns.ip(&format!("addr add {after}/24 dev eth0")).unwrap();
        let new = old.replace(&before.to_string(), &after);
        assert_ne!(old, new);
        eventually("the lease to have the new address and all else as before", || {
            value(&mut lab) == new
        });
        if backend == Backend::Vxlan {
            let link = netns.ip("-d link show flannel.1").unwrap();
            assert!(link.contains(&format!("local {after} dev eth0")), "{link}");
        }
        lab.wait_reachable().unwrap();
        assert_eq!(failing_checks(&lab.nodes()[0]), [""; 0]);
    }
}

#[test]
fn mtu_that_the_interface_does_not_take_is_cut_and_follows_it_down() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":9000}}"#;
    let lab = lab_of("vxmtu", config, 2);
    assert_eq!(overlay(&lab.nodes()[0]).env.mtu, 1450);
    let netns = lab.nodes()[0].netns();
    for (underlay, device) in [(1400, 1350), (1500, 1450)] {
        netns.ip(&format!("link set eth0 mtu {underlay}")).unwrap();
        eventually("the device to follow", || {
            let link = netns.ip("link show flannel.1");
            link.is_ok_and(|link| link.contains(&format!("mtu {device} ")))
        });
    }
    assert_eq!(failing_checks(&lab.nodes()[0]), [""; 0]);
    lab.wait_reachable().unwrap();
}

#[test]
fn port_of_somebody_elses_ends_the_daemon_before_it_promises_anything() {
    let config = Some(Backend::Vxlan.config());
    let mut lab = Lab::create(LabSpec { config, ..spec("vxport", 1) }).unwrap();
    let socket =
        lab.nodes()[0].netns().enter(|| std::net::UdpSocket::bind("0.0.0.0:8472")).unwrap();
    let node = &mut lab.nodes_mut()[0];
    node.start().unwrap();
    let status = node.wait_end(Duration::from_secs(15)).unwrap();
    drop(socket);
    assert_eq!(status.code(), Some(1));
    let said = node.log_tail(1);
    assert!(said.contains("UDP port 8472 is taken by another process"), "{said}");
    assert!(lab.etcd().leases().unwrap().is_empty(), "nothing was promised");
}

#[test]
fn interface_that_is_made_again_with_another_index_takes_the_peers_again() {
    for (topic, backend) in [("vxindex", Backend::Vxlan), ("gwindex", Backend::HostGw)] {
        let lab = lab(topic, backend, 2);
        let node = &lab.nodes()[0];
        let index = || {
            let link = node.netns().ip("-o link show eth0").unwrap();
            link.split(':').next().unwrap().to_owned()
        };
        let before = index();
        // The vxlan device and all routes go with it.
        node.netns().ip("link delete eth0").unwrap();
        lab.underlay().join(node.netns(), &node.name(), node.addr()).unwrap();
        assert_ne!(index(), before);
        lab.wait_reachable().unwrap();
        eventually("all to be well", || failing_checks(node).is_empty());
    }
}
