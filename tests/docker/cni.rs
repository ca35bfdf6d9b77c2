//! The CNI way: the `bridge` and `host-local` plugins, with a config made from `subnet.env`.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use twill::lab::host::netns::Netns;
use twill::lab::network::backend::Backend;
use twill::lab::network::node::Node;
use twill::lab::traffic::measure;

use super::{env, eventually, fetched, two_nodes};

#[test]
fn pods_of_the_bridge_plugin_reach_each_other_over_udp() {
    reach_each_other(Backend::Udp);
}

#[test]
fn pods_of_the_bridge_plugin_reach_each_other_over_vxlan() {
    reach_each_other(Backend::Vxlan);
}

#[test]
fn pods_of_the_bridge_plugin_reach_each_other_over_host_gw() {
    reach_each_other(Backend::HostGw);
}

fn reach_each_other(backend: Backend) {
    let lab = two_nodes(&format!("cni-{backend}"), backend, "");
    let pods: Vec<Pod> = lab
        .nodes()
        .iter()
        .zip(1..)
        .map(|(node, number)| {
            let netns = Netns::create(lab.names().pod(number, 1)).unwrap();
            Pod::add(node, netns)
        })
        .collect();
    for (pod, node) in pods.iter().zip(lab.nodes()) {
        assert!(env(node).subnet.contains(pod.addr), "{}", pod.addr);
        let link = pod.netns.ip("link show eth0").unwrap();
        assert!(link.contains(&format!(" mtu {} ", env(node).mtu)), "{link}");
        let bridge = node.netns().ip("-4 -o addr show dev cni0").unwrap();
        assert!(bridge.contains(&format!("inet {}/", env(node).bridge)), "{bridge}");
    }
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        eventually("pods to reach each other", || measure::reaches(&from.netns, to.addr).unwrap());
    }
    for pod in &pods {
        pod.delete();
        assert!(pod.netns.ip("link show eth0").is_err(), "the plugin took its link away");
    }
}

/// A namespace that the plugins attached to a node's bridge.
struct Pod<'a> {
    node: &'a Node,
    netns: Netns,
    addr: Ipv4Addr,
}

impl<'a> Pod<'a> {
    fn add(node: &'a Node, netns: Netns) -> Self {
        let mut pod = Self { node, netns, addr: Ipv4Addr::UNSPECIFIED };
        let result: Value = serde_json::from_str(&pod.plugin("ADD")).unwrap();
        let addr = result["ips"][0]["address"].as_str().unwrap();
        pod.addr = addr.split_once('/').unwrap().0.parse().unwrap();
        pod
    }

    fn delete(&self) {
        self.plugin("DEL");
    }

    /// Runs the bridge plugin, which runs host-local: environment and standard input are the
    /// CNI specification's, section 2.
    fn plugin(&self, command: &str) -> String {
        let env = env(self.node);
        let config = json!({
            "cniVersion": "0.4.0",
            "name": "flannel",
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": true,
            "mtu": env.mtu,
            "ipam": {
                "type": "host-local",
                "subnet": env.subnet.to_string(),
                "dataDir": self.node.subnet_file().with_file_name("cni"),
            },
        });
        // Where Debian has them.
        let plugins = fetched().join("lib/cni");
        let plugins = if plugins.is_dir() { plugins } else { "/usr/lib/cni".into() };
        let variables = [
            format!("CNI_COMMAND={command}"),
            format!("CNI_CONTAINERID={}", self.netns.name()),
            format!("CNI_NETNS={}", self.netns.path().display()),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_PATH={}", plugins.display()),
        ];
        let tool = variables.iter().fold(self.node.netns().tool("env"), |env, v| env.arg(v));
        tool.arg(plugins.join("bridge")).stdin(config.to_string()).run().unwrap()
    }
}
