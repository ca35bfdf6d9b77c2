//! Our lease and our node.

use serde_json::json;

use super::cluster::{Cluster, RunningNode, eventually, on_this_thread, vxlan};
use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::subnet::LeaseLost;
use crate::control::util::test_log::Logs;

const OURS: [u8; 4] = [192, 168, 71, 1];

#[tokio::test]
async fn node_takes_its_pod_cidr_and_makes_stocks_requests_and_no_other() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.168.71.2");
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until_events(&["+10.244.2.0/24 of 192.168.71.2"]).await;
        assert_eq!(node.said.borrow().subnet.as_deref(), Some("10.244.1.0/24"));
        eventually("the condition", || cluster.condition("nodea")["status"] == "False").await;
        assert_eq!(cluster.condition("nodea")["reason"], "FlannelIsUp");
        assert_eq!(cluster.annotation("nodea", "public-ip"), "192.168.71.1");
        assert_eq!(cluster.api.node("nodea")["metadata"]["annotations"]["dummy"], "value");

        let patches = cluster.patches();
        let annotations = concat!(
            r#"/api/v1/nodes/nodea/status {"metadata":{"annotations":{"#,
            r#""flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"c6:d2:32:6f:8f:44\"}","#,
            r#""flannel.alpha.coreos.com/backend-type":"vxlan","#,
            r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
            r#""flannel.alpha.coreos.com/public-ip":"192.168.71.1"}}}"#
        );
        assert_eq!(patches[0], annotations);
        assert_eq!(patches.len(), 2, "{patches:#?}");
        let requests = cluster.api.requests();
        let paths: Vec<&str> = requests.iter().map(|seen| seen.path.as_str()).collect();
        assert_eq!(paths[0], "/api/v1/nodes?limit=500&resourceVersion=0");
        assert!(paths[1].starts_with("/api/v1/nodes?allowWatchBookmarks=true&resourceVersion=2&"));
        assert_eq!(paths.len(), 4, "{paths:#?}");

        // A restart writes nothing but the condition, and keeps the MAC address.
        drop(node);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        eventually("the condition again", || cluster.patches().len() == 3).await;
        assert!(cluster.patches()[2].contains("NetworkUnavailable"));
        assert_eq!(node.said.borrow().previous_mac, Some(json!("c6:d2:32:6f:8f:44")));
    })
    .await;
}

#[tokio::test]
async fn node_waits_for_its_pod_cidr_with_one_line() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.put_node(json!({ "metadata": { "name": "nodea" } }));
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        eventually("the line", || logs.count("node \"nodea\" has no podCIDR yet") == 1).await;
        cluster.api.patch_node("nodea", &json!({ "metadata": { "labels": { "a": "b" } } }));
        cluster.api.patch_node("nodea", &json!({ "spec": { "podCIDR": "10.244.9.0/24" } }));
        node.until("the lease", |said| said.subnet.as_deref() == Some("10.244.9.0/24")).await;
        assert_eq!(logs.count("has no podCIDR yet"), 1);
        assert_eq!(logs.count("--cluster-cidr=10.244.0.0/16"), 1);
        assert_eq!(cluster.annotation("nodea", "kube-subnet-manager"), "true", "it had none");
    })
    .await;
}

#[tokio::test]
async fn range_that_cannot_be_ours_is_refused_and_nothing_is_written() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.99.0.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the refusal", |said| said.refused.is_some()).await;
        let refused = node.said.borrow_mut().refused.take().unwrap().to_string();
        let stock = r#"subnet "10.244.0.0/16" specified in the flannel net config doesn't contain "10.99.0.0/24" PodCIDR of the "nodea" node"#;
        assert!(refused.starts_with(stock), "{refused}");
        assert_eq!(cluster.patches(), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn operators_address_is_written_in_place_of_ours_and_followed() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        cluster.annotate("nodea", "public-ip-overwrite", json!("172.18.0.2"));
        cluster.annotate("nodea", "node-public-ip", json!("192.168.71.9"));
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the lease", |said| said.status.is_some()).await;
        assert_eq!(cluster.annotation("nodea", "public-ip"), "172.18.0.2");
        assert_eq!(node.status().public_ip.to_string(), "172.18.0.2");
        assert_eq!(node.said.borrow().public_ip.unwrap().to_string(), "192.168.71.9");
        let line = "Overriding public ip with '172.18.0.2' from node annotation \
                    'flannel.alpha.coreos.com/public-ip-overwrite'";
        assert_eq!(logs.count(line), 1);
        let written = |ip: &'static str| {
            let cluster = &cluster;
            move || cluster.annotation("nodea", "public-ip") == ip
        };
        cluster.annotate("nodea", "public-ip-overwrite", json!("172.18.0.3"));
        eventually("the new one", written("172.18.0.3")).await;
        cluster.annotate("nodea", "public-ip-overwrite", json!("nonsense"));
        eventually("our own", written("192.168.71.1")).await;
        assert_eq!(logs.count("annotation public-ip-overwrite is \"nonsense\""), 1);
        node.attrs.send_replace(vxlan([192, 168, 71, 11]));
        eventually("our new one", written("192.168.71.11")).await;
    })
    .await;
}

#[tokio::test]
async fn annotations_and_condition_that_somebody_changes_are_written_again() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let _node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        eventually("the condition", || cluster.condition("nodea")["status"] == "False").await;
        cluster.annotate("nodea", "public-ip", json!("1.2.3.4"));
        cluster.annotate("nodea", "kube-subnet-manager", json!(null));
        let is_whole = || {
            cluster.annotation("nodea", "public-ip") == "192.168.71.1"
                && cluster.annotation("nodea", "kube-subnet-manager") == "true"
        };
        eventually("the annotations", is_whole).await;
        let reset =
            json!([{ "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated" }]);
        cluster.api.patch_node("nodea", &json!({ "status": { "conditions": reset } }));
        let is_up = || cluster.condition("nodea")["reason"] == "FlannelIsUp";
        eventually("the condition again", is_up).await;
        assert_eq!(cluster.condition("nodea")["status"], "False");
    })
    .await;
}

#[tokio::test]
async fn condition_is_left_alone_if_the_flag_says_so() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let config = KubeConfig { sets_condition: false, ..cluster.config("nodea") };
        let node = RunningNode::start(&cluster, config, vxlan(OURS));
        node.until("the lease", |said| said.is_complete).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.168.71.2");
        node.until_events(&["+10.244.2.0/24 of 192.168.71.2"]).await;
        assert_eq!(cluster.patches().len(), 1, "the annotations alone");
    })
    .await;
}

#[tokio::test]
async fn pod_names_the_node_on_which_it_runs() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let pod = NodeIdentity::Pod { namespace: "kube-flannel".into(), name: "p-1".into() };
        let config = KubeConfig { node: pod, ..cluster.config("") };
        let node = RunningNode::start(&cluster, config, vxlan(OURS));
        eventually("the line", || logs.count("pod kube-flannel/p-1 does not exist") == 1).await;
        cluster.api.put_pod("kube-flannel", "p-1", "nodea");
        node.until("the lease", |said| said.subnet.is_some()).await;
        let first = &cluster.api.requests()[0];
        assert_eq!(first.path, "/api/v1/namespaces/kube-flannel/pods/p-1");
    })
    .await;
}

#[tokio::test]
async fn node_that_comes_back_with_another_range_ends_the_lease() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the lease", |said| said.is_complete).await;
        cluster.api.delete_node("nodea");
        eventually("the line", || logs.count("node \"nodea\" is not in the cluster") == 1).await;
        node.until("the status", |said| said.status.as_ref().is_some_and(|it| it.is_gone)).await;
        cluster.api.put_node(json!({ "metadata": { "name": "nodea" } }));
        cluster.api.patch_node("nodea", &json!({ "spec": { "podCIDR": "10.244.8.0/24" } }));
        node.until("the end", |said| said.lost.is_some()).await;
        let lost = node.said.borrow().lost.clone().unwrap();
        assert!(matches!(lost, LeaseLost::Renumbered { .. }), "{lost}");
        let line = "node nodea now has podCIDR 10.244.8.0/24, not 10.244.1.0/24";
        assert!(lost.to_string().starts_with(line), "{lost}");
    })
    .await;
}

#[tokio::test]
async fn changed_net_conf_is_said_and_so_is_its_end() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the lease", |said| said.is_complete).await;
        let other = r#"{"Network":"10.8.0.0/16","Backend":{"Type":"vxlan"}}"#;
        std::fs::write(cluster.net_conf(), other).unwrap();
        let line = "net-conf.json is not what this node runs with: Network is 10.8.0.0/16, was \
                    10.244.0.0/16";
        eventually("the warning", || logs.count(line) == 1).await;
        node.until("the status", |said| {
            said.status.as_ref().is_some_and(|it| it.warnings.contains_key("config"))
        })
        .await;
        std::fs::write(cluster.net_conf(), super::cluster::CONFIG).unwrap();
        eventually("its end", || logs.count("is again what this node runs with") == 1).await;
    })
    .await;
}
