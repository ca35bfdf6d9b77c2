//! Kubernetes mode, with traffic: `flanneld --kube-subnet-mgr` against a double of the API server.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use twill::lab::network::backend::Backend;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::kube::KubeServer;
use twill::lab::network::node::Node;
use twill::lab::network::registry::{Registry, RegistryKind};
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNELD, assert_tcp_is_whole, eventually, failing_checks, overlay, pod, spec,
};

const PREFIX: &str = "flannel.alpha.coreos.com";

fn lab(topic: &str, backend: Backend, num_nodes: usize) -> Lab {
    let config = Some(backend.config());
    let registry = RegistryKind::Kube;
    Lab::up(LabSpec { config, registry, ..spec(topic, num_nodes) }).unwrap()
}

fn server(lab: &Lab) -> &KubeServer {
    match lab.registry() {
        Registry::Kube(server) => server,
        Registry::Etcd(_) | Registry::File(_) => panic!("no API server"),
    }
}

fn annotation(node: &Value, name: &str) -> String {
    let value = &node["metadata"]["annotations"][format!("{PREFIX}/{name}")];
    value.as_str().unwrap_or_default().to_owned()
}

fn routes(node: &Node) -> String {
    node.netns().ip("-4 route show").unwrap()
}

/// What a vxlan node of stock writes.
fn stock(ip: &str) -> Value {
    let number: Ipv4Addr = ip.parse().unwrap();
    let [a, b, c, d] = number.octets();
    json!({
        format!("{PREFIX}/backend-data"):
            format!("{{\"VNI\":1,\"VtepMAC\":\"02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}\"}}"),
        format!("{PREFIX}/backend-type"): "vxlan",
        format!("{PREFIX}/kube-subnet-manager"): "true",
        format!("{PREFIX}/public-ip"): ip,
    })
}

#[test]
fn every_backend_carries_pods_of_a_cluster() {
    for backend in Backend::ALL {
        let lab = lab(&format!("k-{backend}"), backend, 2);
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
        let node = &lab.nodes()[1];
        let object = server(&lab).node("n2").unwrap();
        let cidr = overlay(node).env.subnet.to_string();
        assert_eq!(object["spec"]["podCIDR"], cidr.as_str());
        assert_eq!(annotation(&object, "public-ip"), node.addr().to_string());
        eventually("the condition", || {
            let object = server(&lab).node("n2").unwrap();
            object["status"]["conditions"][0]["reason"] == "FlannelIsUp"
        });
        let requests = server(&lab).requests().unwrap();
        let nodes = "/api/v1/nodes";
        let is_known = |method: &str, path: &str| match method {
            "GET" => path.starts_with(&format!("{nodes}?")),
            "PATCH" => path.ends_with("/status"),
            _ => false,
        };
        // The lab itself adds nodes and looks at them.
        let ours = requests.iter().filter(|seen| seen.method == "PATCH" || seen.path.contains('?'));
        for seen in ours {
            assert!(is_known(&seen.method, &seen.path), "{seen:?}");
        }
    }
}

#[test]
fn peers_of_a_cluster_come_change_and_go_and_an_outage_changes_nothing() {
    let mut lab = lab("k-change", Backend::Vxlan, 2);
    let server = lab.kube();
    server.put_node("s1", "10.5.77.0/24", &stock("192.168.64.77")).unwrap();
    let route = "10.5.77.0/24 via 10.5.77.0 dev flannel.1 onlink";
    eventually("a route to a stock node", || routes(&lab.nodes()[0]).contains(route));
    let moved = "10.5.78.0/24 via 10.5.78.0 dev flannel.1 onlink";
    lab.kube().put_node("s1", "10.5.78.0/24", &stock("192.168.64.77")).unwrap();
    eventually("a route to its new range", || {
        let routes = routes(&lab.nodes()[0]);
        routes.contains(moved) && !routes.contains(route)
    });
    let state = lab.nodes()[1].subnet_file().with_extension("state.json");
    eventually("the state file", || state.exists());
    lab.kube().stop();
    eventually("the outage to be seen", || {
        lab.nodes()[0].log_tail(5).contains("nodes cannot be followed: ")
    });
    // It leaves the node ready.
    assert_eq!(failing_checks(&lab.nodes()[0]), ["registry"]);
    // A node that starts now does so with its state.
    let node = &mut lab.nodes_mut()[1];
    node.kill();
    node.start().unwrap();
    node.wait_ready().unwrap();
    lab.wait_reachable().unwrap();
    lab.kube().start_again().unwrap();
    lab.kube().delete_node("s1").unwrap();
    eventually("the route to be gone", || {
        lab.nodes().iter().all(|node| !routes(node).contains("10.5.78.0/24"))
    });
    lab.kube().forget().unwrap();
    eventually("the loss to be seen", || {
        lab.nodes()[0].log_tail(5).contains("node \"n1\" is not in the cluster")
    });
    lab.wait_reachable().unwrap();
}

/// With nftables; tests/cli/kube.rs has iptables.
#[test]
fn nodes_of_a_rolling_update_keep_their_subnets_rules_and_pods() {
    let config = r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
    let daemon = Daemon::flanneld(FLANNELD).with("--ip-masq");
    let (config, registry) = (Some(config.to_owned()), RegistryKind::Kube);
    let mut lab = Lab::up(LabSpec { config, registry, daemon, ..spec("k-roll", 2) }).unwrap();
    let rules = |node: &Node| {
        let table = node.netns().tool("nft").words("list table ip flannel-ipv4").run().unwrap();
        let subnet = overlay(node).env.subnet;
        let masquerade = "ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random";
        let inside = format!("ip saddr {subnet} ip daddr 10.5.0.0/16 return");
        assert!(table.contains(masquerade) && table.contains(&inside), "{table}");
        table
    };
    for index in 0..2 {
        let (env, before) = (overlay(&lab.nodes()[index]).env, rules(&lab.nodes()[index]));
        let node = &mut lab.nodes_mut()[index];
        node.terminate().unwrap();
        node.start().unwrap();
        node.wait_ready().unwrap();
        assert_eq!((overlay(node).env, rules(node)), (env, before));
        lab.wait_reachable().unwrap();
    }
}

#[test]
fn a_thousand_nodes_at_once_get_their_routes_while_pods_talk() {
    let lab = lab("k-many", Backend::Vxlan, 2);
    let node = |number: usize| {
        let cidr = format!("10.5.{}.{}/28", 64 + number / 16, number % 16 * 16);
        (format!("s{number}"), cidr, stock("192.168.64.99"))
    };
    server(&lab).put_nodes(&(0..1000).map(node).collect::<Vec<_>>()).unwrap();
    eventually("all routes", || routes(&lab.nodes()[0]).matches("/28 via").count() == 1000);
    lab.wait_reachable().unwrap();
}
