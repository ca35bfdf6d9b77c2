//! Starts while the API server is away, and settings that cannot work.

use super::cluster::{Cluster, RunningNode, eventually, manager, on_this_thread, vxlan};
use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::subnet::SubnetManager;
use crate::control::subnet::kube::manager::{KubeManager, KubeSettings};
use crate::control::util::error_chain::error_chain;
use crate::control::util::test_log::Logs;

const OURS: [u8; 4] = [192, 168, 71, 1];

async fn saved(cluster: &Cluster) {
    cluster.api.add_node("nodea", &["10.244.1.0/24"]);
    cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
    cluster.add_peer("nodec", "10.244.3.0/24", "192.0.2.3");
    let node = RunningNode::start(cluster, cluster.config("nodea"), vxlan(OURS));
    node.until("the peers", |said| said.events.len() == 2).await;
    eventually("the state", || cluster.state_file().exists()).await;
}

#[tokio::test]
async fn node_starts_with_its_state_and_settles_when_the_server_is_back() {
    on_this_thread(async {
        let logs = Logs::capture();
        let mut cluster = Cluster::start().await;
        saved(&cluster).await;
        cluster.stop().await;
        cluster.api.delete_node("nodec");
        let pod = NodeIdentity::Pod { namespace: "kube-flannel".into(), name: "p".into() };
        for identity in [NodeIdentity::Name("nodea".into()), pod] {
            let config = KubeConfig { node: identity, ..cluster.config("") };
            let node = RunningNode::start(&cluster, config, vxlan(OURS));
            node.until("the saved peers", |said| said.events.len() == 2).await;
            assert_eq!(node.said.borrow().subnet.as_deref(), Some("10.244.1.0/24"));
            assert!(!node.said.borrow().is_complete && !node.said.borrow().is_reachable);
            assert_eq!(node.said.borrow().previous_mac, Some("c6:d2:32:6f:8f:44".into()));
        }
        assert_eq!(logs.count("starting with podCIDR 10.244.1.0/24 of node nodea and 2 peers"), 2);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan([192, 168, 71, 5]));
        node.until("the saved peers", |said| said.events.len() == 2).await;
        cluster.start_again();
        node.until("the list", |said| said.is_complete).await;
        assert_eq!(node.said.borrow().events[2..], ["-10.244.3.0/24"]);
        let is_written = || cluster.annotation("nodea", "public-ip") == "192.168.71.5";
        eventually("the new address", is_written).await;
    })
    .await;
}

#[tokio::test]
async fn state_of_another_node_or_network_is_not_used() {
    on_this_thread(async {
        let mut cluster = Cluster::start().await;
        saved(&cluster).await;
        cluster.stop().await;
        let other = RunningNode::start(&cluster, cluster.config("nodez"), vxlan(OURS));
        std::fs::write(cluster.net_conf(), r#"{"Network":"10.8.0.0/16"}"#).unwrap();
        let moved = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        // Longer than a start with a state takes: the server refuses connections at once.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(other.said.borrow().subnet, None);
        assert_eq!(moved.said.borrow().subnet, None);
    })
    .await;
}

#[tokio::test]
async fn name_that_no_node_has_is_said_and_waited_for() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodex"), vxlan(OURS));
        let line = "node \"nodex\" is not among the 1 nodes of the cluster";
        eventually("the line", || logs.count(line) == 1).await;
        cluster.api.add_node("nodex", &["10.244.7.0/24"]);
        node.until("the lease", |said| said.subnet.is_some()).await;
    })
    .await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_one_line_each() {
    let cluster = Cluster::start().await;
    let fault = |config: KubeConfig| {
        let subnet_file = cluster.dir.path().join("subnet.env");
        let settings = KubeSettings { backend: None, subnet_file: &subnet_file, in_use: None };
        error_chain(&KubeManager::new(&config, settings).err().unwrap())
    };
    let write = |text: &str| std::fs::write(cluster.net_conf(), text).unwrap();
    let nowhere = KubeConfig { api_url: None, ..cluster.config("nodea") };
    let line = "fail to create kubernetes config: no API server is named: give --kubeconfig-file";
    assert!(fault(nowhere.clone()).starts_with(line));
    let service = Some(("10.96.0.1".to_owned(), "443".to_owned()));
    let outside = fault(KubeConfig { service, ..nowhere });
    let line = "read /var/run/secrets/kubernetes.io/serviceaccount/token: No such file";
    assert!(outside.contains(line), "{outside}");
    let bad =
        fault(KubeConfig { api_url: Some("ftp://host:6443".into()), ..cluster.config("nodea") });
    let line = "\"ftp://host:6443\" is not the URL of the Kubernetes API server: ";
    assert!(bad.starts_with(line), "{bad}");
    write("{}");
    let missing = fault(cluster.config("nodea"));
    assert!(
        missing.starts_with("error parsing subnet config: ")
            && missing.ends_with("Network: missing")
    );
    write(r#"{"Network":"10.244.0.0/16","SubnetLen":17}"#);
    assert!(fault(cluster.config("nodea")).ends_with("take 18 or more"));
    std::fs::remove_file(cluster.net_conf()).unwrap();
    assert!(fault(cluster.config("nodea")).starts_with("failed to read net conf: "));
}

#[tokio::test]
async fn manager_is_named_after_the_node() {
    let cluster = Cluster::start().await;
    let config = cluster.config("nodea");
    let name = manager(&config, cluster.dir.path()).name();
    assert_eq!(name, "Kubernetes Subnet Manager - nodea");
}
