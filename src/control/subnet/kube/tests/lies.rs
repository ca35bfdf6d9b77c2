//! API servers that say what is not so, and networks that cut it off: the nodes are followed all the
//! same, at a pace that does no harm.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::cluster::{Cluster, RunningNode, eventually, on_this_thread, vxlan};
use crate::control::config::kube::KubeConfig;
use crate::control::subnet::LeaseLost;
use crate::control::subnet::kube::api::{Access, ApiClient};
use crate::control::subnet::kube::node_feed::{NodeChange, NodeFeed};
use crate::control::util::http_client::double::{Double, Reply};
use crate::control::util::test_log::Logs;

const OURS: [u8; 4] = [192, 168, 71, 1];

/// Nodes `a` with these versions, one item each.
fn list(versions: &[u32]) -> String {
    let node = |version: &u32| {
        json!({ "metadata": {
        "name": "a", "resourceVersion": version.to_string(),
    } })
    };
    let items: Vec<_> = versions.iter().map(node).collect();
    json!({ "kind": "NodeList", "metadata": { "resourceVersion": "9" }, "items": items })
        .to_string()
}

fn event(kind: &str, name: &str, version: &str) -> String {
    let object =
        json!({ "kind": "Node", "metadata": { "name": name, "resourceVersion": version } });
    format!("{}\n", json!({ "type": kind, "object": object }))
}

/// One watch that ends with `tail`.
fn watch(tail: &str) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    Reply::Pieces(vec![head.to_owned(), tail.to_owned()])
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

async fn feed(double: &Double) -> NodeFeed {
    let cluster = Cluster::start().await;
    let config = KubeConfig { api_url: Some(double.url.clone()), ..cluster.config("a") };
    let api = Arc::new(ApiClient::new(Access::find(&config).unwrap()).unwrap());
    NodeFeed::start(api, config.prefix, 100)
}

/// The time until the server was asked for the `num`th list.
async fn time_of_lists(double: &Double, feed: &mut NodeFeed, num: usize) -> Duration {
    let start = Instant::now();
    loop {
        let lists = double.requests().iter().filter(|it| it.contains("limit=")).count();
        if lists >= num {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{:?}", double.requests());
        tokio::select! {
            _ = feed.next() => {}
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

#[tokio::test]
async fn server_for_which_every_version_is_too_old_is_not_asked_in_a_tight_loop() {
    let gone = r#"{"kind":"Status","code":410,"message":"too old"}"#;
    let event = chunk(&format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n"));
    for reply in [Reply::text("410 Gone", gone), watch(&event)] {
        let double = Double::start(move |request| match request.contains("watch=true") {
            true => reply.clone(),
            false => Reply::text("200 OK", &list(&[3])),
        })
        .await;
        let mut feed = feed(&double).await;
        // Two pauses, of at least 0.4 and 0.8 s.
        let time = time_of_lists(&double, &mut feed, 3).await;
        assert!(time > Duration::from_secs(1), "{time:?}");
    }
}

#[tokio::test]
async fn server_that_is_busy_is_left_alone_for_as_long_as_it_wants() {
    let double = Double::start(|_| {
        Reply::Answer("429 Too Many Requests", vec![("Retry-After", "2".to_owned())], String::new())
    })
    .await;
    let mut feed = feed(&double).await;
    let time = time_of_lists(&double, &mut feed, 2).await;
    assert!(time > Duration::from_millis(1900), "{time:?}");
}

#[tokio::test]
async fn watch_that_is_cut_off_or_makes_no_sense_is_followed_by_another() {
    let logs = Logs::capture();
    let half = event("MODIFIED", "b", "12");
    let tails = [
        // A chunk that is cut off, and one that announces more than comes.
        chunk(&event("ADDED", "b", "11")) + "4f\r\n{\"type\":",
        chunk(&event("ADDED", "c", "10")) + &chunk(&half[..30]) + "0\r\n\r\n",
        chunk("{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\"}}\n"),
        chunk(&event("BOOKMARK", "", "")) + &chunk(&event("DELETED", "b", "")) + "0\r\n\r\n",
    ];
    let number = std::sync::atomic::AtomicUsize::new(0);
    let double = Double::start(move |request| match request.contains("watch=true") {
        true => {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tails.get(number).map_or(Reply::Silence, |tail| watch(tail))
        }
        false => Reply::text("200 OK", &list(&[3, 2])),
    })
    .await;
    let mut feed = feed(&double).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "-b") {
        match feed.next().await {
            NodeChange::Listed(nodes) => seen.push(format!("{} listed", nodes.len())),
            NodeChange::Put(node) => seen.push(format!("+{}", node.name)),
            NodeChange::Deleted(name) => seen.push(format!("-{name}")),
            NodeChange::Reachable | NodeChange::Failed => {}
        }
    }
    assert_eq!(seen, ["2 listed", "+b", "+c", "2 listed", "2 listed", "-b"]);
    let versions: Vec<String> = double.requests();
    let from = |number: usize| versions.iter().filter(|it| it.contains("watch=true")).nth(number);
    assert!(from(1).unwrap().contains("resourceVersion=11&"), "what was read counts");
    assert!(logs.count("closed the connection") == 1, "{}", logs.count("nodes cannot be followed"));
    assert_eq!(logs.count("it is \"Pod\", not Node"), 1);
}

#[tokio::test]
async fn change_of_the_second_familys_range_ends_the_lease_of_a_network_that_leases_it() {
    on_this_thread(async {
        let cluster = Cluster::start().await;
        let config = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:1::/48"}"#;
        std::fs::write(cluster.net_conf(), config).unwrap();
        cluster.api.add_node("nodea", &["fd00:1:0:7::/64", "10.244.1.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the lease", |said| said.is_complete).await;
        let other = json!({ "spec": { "podCIDRs": ["10.244.1.0/24", "fd00:1:0:8::/64"] } });
        cluster.api.patch_node("nodea", &other);
        node.until("the end", |said| said.lost.is_some()).await;
        let lost = node.said.borrow().lost.clone().unwrap();
        assert!(matches!(lost, LeaseLost::Renumbered { .. }), "{lost}");
        let line = "node nodea now has podCIDR fd00:1:0:8::/64, not fd00:1:0:7::/64";
        assert!(lost.to_string().starts_with(line), "{lost}");
    })
    .await;
}

/// The server is killed while it answers, and comes back with older versions.
#[tokio::test]
async fn versions_that_go_back_lose_no_annotation() {
    on_this_thread(async {
        let mut cluster = Cluster::start().await;
        for number in 0..30 {
            cluster.add_peer(
                &format!("n{number}"),
                &format!("10.244.{}.0/24", 20 + number),
                "192.0.2.2",
            );
        }
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        let node = RunningNode::start(&cluster, cluster.config("nodea"), vxlan(OURS));
        node.until("the peers", |said| said.events.len() == 30).await;
        cluster.stop().await;
        cluster.api.forget();
        cluster.api.add_node("nodea", &["10.244.1.0/24"]);
        cluster.add_peer("n0", "10.244.20.0/24", "192.0.2.9");
        cluster.start_again();
        node.until("the change", |said| {
            said.events.contains(&"+10.244.20.0/24 of 192.0.2.9".to_owned())
        })
        .await;
        let is_written = || cluster.annotation("nodea", "public-ip") == "192.168.71.1";
        eventually("our annotations", is_written).await;
        eventually("the condition", || cluster.condition("nodea")["status"] == "False").await;
    })
    .await;
}
