//! API servers that are away, slow, forgetful or wrong; nodes that come, go and change.

use serde_json::json;

use super::cluster::{Cluster, RunningNode, eventually, on_this_thread, vxlan};
use crate::control::config::kube::KubeConfig;
use crate::control::util::test_log::Logs;
use crate::lab::kube_api::Faults;

const OURS: [u8; 4] = [192, 168, 71, 1];

async fn running(cluster: &Cluster) -> RunningNode {
    cluster.api.add_node("nodea", &["10.244.1.0/24"]);
    let node = RunningNode::start(cluster, cluster.config("nodea"), vxlan(OURS));
    node.until("the list", |said| said.is_complete).await;
    node
}

#[tokio::test]
async fn every_change_of_a_peer_is_seen() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        let node = running(&cluster).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        cluster.annotate("nodeb", "public-ip", json!("192.0.2.3"));
        cluster.api.patch_node("nodeb", &json!({ "spec": { "podCIDRs": ["10.244.3.0/24"] } }));
        cluster.annotate("nodeb", "kube-subnet-manager", json!(null));
        cluster.annotate("nodeb", "kube-subnet-manager", json!("true"));
        cluster.api.delete_node("nodeb");
        node.until_events(&[
            "+10.244.2.0/24 of 192.0.2.2",
            "+10.244.2.0/24 of 192.0.2.3",
            "-10.244.2.0/24",
            "+10.244.3.0/24 of 192.0.2.3",
            "-10.244.3.0/24",
            "+10.244.3.0/24 of 192.0.2.3",
            "-10.244.3.0/24",
        ])
        .await;
    })
    .await;
}

#[tokio::test]
async fn watch_that_ends_breaks_off_or_is_too_old_loses_nothing() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.set_faults(Faults { watch_secs: Some(1), ..Faults::default() });
        let node = running(&cluster).await;
        let watches = || {
            cluster.api.requests().iter().filter(|seen| seen.path.contains("watch=true")).count()
        };
        eventually("a second watch", || watches() >= 2).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        node.until_events(&["+10.244.2.0/24 of 192.0.2.2"]).await;
        cluster.api.set_faults(Faults::default());
        cluster.api.drop_watches();
        cluster.add_peer("nodec", "10.244.3.0/24", "192.0.2.3");
        node.until("nodec", |said| said.events.len() == 2).await;
        let lists =
            || cluster.api.requests().iter().filter(|seen| seen.path.contains("limit=500")).count();
        assert_eq!(lists(), 1, "a watch goes on from where the last one was");
        cluster.api.delete_node("nodeb");
        cluster.api.compact();
        cluster.add_peer("noded", "10.244.4.0/24", "192.0.2.4");
        node.until("noded", |said| said.events.len() == 4).await;
        assert_eq!(
            node.said.borrow().events[2..],
            ["-10.244.2.0/24", "+10.244.4.0/24 of 192.0.2.4"]
        );
        assert_eq!(node.said.borrow().lost, None);
    })
    .await;
}

#[tokio::test]
async fn server_that_is_away_for_a_while_changes_nothing() {
    on_this_thread(async {
        let logs = Logs::capture();
        let mut cluster = Cluster::start().await;
        let node = running(&cluster).await;
        cluster.stop().await;
        node.until("the outage", |said| !said.is_reachable).await;
        cluster.api.put_node(cluster.api.node("nodea"));
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        cluster.start_again();
        node.until_events(&["+10.244.2.0/24 of 192.0.2.2"]).await;
        node.until("its end", |said| said.is_reachable).await;
        assert_eq!(logs.count("answers again"), 1);
        assert_eq!(node.status().reconnects, 1);
    })
    .await;
}

#[tokio::test]
async fn server_that_forgot_everything_takes_no_peer_away_until_our_node_is_back() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        let node = running(&cluster).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        cluster.add_peer("nodec", "10.244.3.0/24", "192.0.2.3");
        node.until("the peers", |said| said.events.len() == 2).await;
        cluster.api.forget();
        eventually("the line", || logs.count("node \"nodea\" is not in the cluster") == 1).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.22");
        node.until("nodeb", |said| said.events.len() == 3).await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let is_written = || cluster.annotation("nodea", "public-ip") == "192.168.71.1";
        eventually("our annotations", is_written).await;
        node.until("the line", |_| logs.count("node \"nodea\" is in the cluster again") == 1).await;
        assert_eq!(node.said.borrow().events[2], "+10.244.2.0/24 of 192.0.2.22");
        // The next list is believed.
        cluster.api.compact();
        node.until("nodec", |said| said.events.len() == 4).await;
        assert_eq!(node.said.borrow().events[3], "-10.244.3.0/24");
    })
    .await;
}

#[tokio::test]
async fn refusals_name_verb_and_resource_and_are_outlasted() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let deny = |what: &str| {
            cluster.api.set_faults(Faults { denied: vec![what.to_owned()], ..Faults::default() });
        };
        deny("list nodes");
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        let list = "does not allow us to list nodes: add the verb list on the resource nodes";
        eventually("list", || logs.count(list) == 1).await;
        deny("patch nodes/status");
        let patch = "does not allow us to patch nodes/status: add the verb patch on the resource \
                     nodes/status";
        eventually("patch", || logs.count(patch) == 1).await;
        deny("watch nodes");
        node.until("the lease", |said| said.subnet.is_some()).await;
        cluster.api.drop_watches();
        let watch = "does not allow us to watch nodes: add the verb watch on the resource nodes";
        eventually("watch", || logs.count(watch) == 1).await;
        cluster.api.set_faults(Faults::default());
        eventually("the condition", || cluster.condition("nodea")["status"] == "False").await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        node.until("nodeb", |said| said.events.len() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn condition_is_tried_until_it_is_accepted() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        let node = running(&cluster).await;
        eventually("the condition", || cluster.condition("nodea")["status"] == "False").await;
        let status = Faults { status: Some(500), ..Faults::default() };
        cluster.api.set_faults(status);
        let reset = json!([{ "type": "NetworkUnavailable", "status": "True" }]);
        cluster.api.patch_node("nodea", &json!({ "status": { "conditions": reset } }));
        node.until("the warning", |said| {
            said.status.as_ref().is_some_and(|it| it.warnings.contains_key("condition"))
        })
        .await;
        cluster.api.set_faults(Faults::default());
        eventually("the condition again", || cluster.condition("nodea")["status"] == "False").await;
    })
    .await;
}

#[tokio::test]
async fn wrong_token_is_named() {
    on_this_thread(async {
        let logs = Logs::capture();
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        cluster.api.set_faults(Faults { token: Some("secret".into()), ..Faults::default() });
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        let line = "does not accept our credentials (Unauthorized)";
        eventually("the line", || logs.count(line) == 1).await;
        cluster.api.set_faults(Faults::default());
        node.until("the lease", |said| said.subnet.is_some()).await;
    })
    .await;
}

/// More nodes than the queue holds: none is lost, and each is as it was last.
#[tokio::test]
async fn a_thousand_nodes_at_once_go_through_a_short_queue_in_order() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let config = KubeConfig { queue_depth: 3, ..cluster.config("nodea") };
        let node = RunningNode::start(&cluster, config, vxlan(OURS));
        node.until("the list", |said| said.is_complete).await;
        let cidr = |number: usize| format!("10.244.{}.{}/28", 16 + number / 16, number % 16 * 16);
        for number in 0..1000 {
            cluster.add_peer(&format!("n{number:04}"), &cidr(number), "192.0.2.2");
            cluster.annotate(&format!("n{number:04}"), "public-ip", json!("192.0.2.3"));
        }
        let expected: Vec<String> = (0..1000)
            .flat_map(|number| {
                ["192.0.2.2", "192.0.2.3"].map(|ip| format!("+{} of {ip}", cidr(number)))
            })
            .collect();
        node.until("all of them", |said| said.events.len() >= 2000).await;
        assert_eq!(node.said.borrow().events, expected);
    })
    .await;
}

#[tokio::test]
async fn slow_server_is_waited_for() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        cluster.api.set_faults(Faults { delay_ms: 400, ..Faults::default() });
        let node = running(&cluster).await;
        cluster.add_peer("nodeb", "10.244.2.0/24", "192.0.2.2");
        node.until_events(&["+10.244.2.0/24 of 192.0.2.2"]).await;
        node.until("reachable", |said| said.is_reachable).await;
    })
    .await;
}
