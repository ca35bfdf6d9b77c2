use std::time::Duration;

use ipnetwork::Ipv4Network;

use super::*;
use crate::control::subnet::kv::registry::conformance::{self, Rig};
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::subnet::kv::registry::{Change, LeaseWatch, Stored};
use crate::control::util::http_client::{HttpClient, Request, Timeouts, basic_auth};

mod access;
mod odd;

/// A registry in etcd's v2 store, with the operator's `etcdctl`.
struct Etcd2Rig {
    registry: Etcd2Registry,
    operator: Operator,
}

/// Talks to one server as an operator does.
pub(in crate::control::subnet::kv::registry) struct Operator(HttpClient);

impl Operator {
    pub(in crate::control::subnet::kv::registry) fn of(url: &str) -> Self {
        let limit = Duration::from_secs(60);
        let timeouts = Timeouts { connect: limit, head: limit, body: limit };
        Self(HttpClient::new("etcd", url, None, timeouts).unwrap())
    }

    /// `PUT`s a key, with more of the query than the value.
    pub(in crate::control::subnet::kv::registry) async fn put(
        &self,
        key: &str,
        query: &str,
        value: &str,
    ) {
        self.ask(&servers::put(key, query, value, None)).await;
    }

    pub(in crate::control::subnet::kv::registry) async fn remove(&self, key: &str) {
        self.ask(&Request::new(hyper::Method::DELETE, format!("{}?recursive=true", path_of(key))))
            .await;
    }

    async fn ask(&self, request: &Request) -> String {
        let answer = self.0.send(request).await.unwrap();
        let status = answer.status();
        let body = String::from_utf8(answer.read(1 << 20).await.unwrap().to_vec()).unwrap();
        assert!(status.is_success(), "{status}: {body}");
        body
    }

    async fn get(&self, key: &str) -> String {
        self.ask(&get(key, true)).await
    }
}

impl Rig for Etcd2Rig {
    type Registry = Etcd2Registry;

    fn registry(&self) -> &Etcd2Registry {
        &self.registry
    }

    async fn set_config(&self, text: &str) {
        self.operator.put(&self.registry.keys.config, "", text).await;
    }

    async fn put(&self, key: &str, value: &str) {
        self.operator.put(&self.registry.keys.full(key), "", value).await;
    }

    async fn remove(&self, key: &str) {
        self.operator.remove(&self.registry.keys.full(key)).await;
    }

    async fn expire(&self, lease: &Stored<Lease>) {
        // Only the TTL changes, and no watch is notified of that.
        let key = self.registry.keys.full(&lease.entry.key);
        let path = format!("{}?prevExist=true&refresh=true&ttl=1", path_of(&key));
        self.operator.ask(&Request::new(hyper::Method::PUT, path)).await;
    }

    async fn compact(&self) {
        fill_history(&self.operator).await;
    }
}

/// Has etcd forget every event so far: it keeps 1000.
async fn fill_history(operator: &Operator) {
    for number in 0..1001 {
        operator.put("/busy", "", &number.to_string()).await;
    }
}

pub(in crate::control::subnet::kv::registry) async fn v2_server() -> EtcdServer {
    EtcdServer::start_with(&["--enable-v2=true"]).await
}

#[tokio::test]
async fn keeps_the_promises_of_a_registry() {
    let server = v2_server().await;
    let rig = Etcd2Rig { registry: registry(&[&server.url]), operator: Operator::of(&server.url) };
    // A neighbour whose name begins with ours is none of our business.
    rig.operator.put("/test/network/subnets-meta/10.1.1.0-24", "", "{}").await;
    conformance::check(&rig).await;
}

#[tokio::test]
async fn keys_values_and_ttl_are_those_of_stock() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    let data = serde_json::json!({"VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee:ff"});
    let attrs = LeaseAttrs { backend_type: Some("vxlan".to_owned()), ..attrs() };
    let attrs = attrs.with_data(Some(data));
    registry.create("10.1.1.0/24".parse().unwrap(), &attrs).await.unwrap();
    let answer = operator.get("/test/network/subnets/10.1.1.0-24").await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["node"]["ttl"], 86400);
    assert_eq!(
        answer["node"]["value"],
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}}"#
    );
}

#[tokio::test]
async fn leases_as_old_versions_write_them_are_read_and_followed() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    let list = registry.list(&Scope::All).await.unwrap();
    assert_eq!(list.entries, [], "there is not even a directory");
    let mut watch = registry.watch(&Scope::All, list.revision).await.unwrap();
    // 0.6 to 0.14, by hand without a TTL, and 0.15 to 0.17.
    let values = [
        ("10.1.1.0-24", r#"{"PublicIP":"192.0.2.7"}"#, "prevExist=false&ttl=86400"),
        (
            "10.1.2.0-24",
            r#"{"PublicIP":"192.0.2.8","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb:cc:dd:ee:ff"}}"#,
            "",
        ),
        (
            "10.1.3.0-24",
            r#"{"PublicIP":"192.0.2.9","PublicIPv6":null}"#,
            "prevExist=false&ttl=86400",
        ),
        (
            "10.1.4.0-24&fd00:1:2:3::-64",
            r#"{"PublicIP":"192.0.2.10","PublicIPv6":"fd00::10"}"#,
            "prevExist=false&ttl=86400",
        ),
    ];
    for (key, value, query) in values {
        operator.put(&format!("/test/network/subnets/{key}"), query, value).await;
    }
    let mut followed = Vec::new();
    for _ in values {
        followed.extend(watch.next().await.unwrap().changes);
    }
    let listed = registry.list(&Scope::All).await.unwrap();
    let puts: Vec<Change> = listed.entries.iter().cloned().map(Change::Put).collect();
    assert_eq!(followed, puts);
    let leases: Vec<&Stored<Lease>> = listed.leases().collect();
    assert_eq!(leases.len(), values.len());
    let reserved: Vec<bool> = leases.iter().map(|lease| lease.is_reservation()).collect();
    assert_eq!(reserved, [false, true, false, false]);
    for (lease, (key, ..)) in leases.into_iter().zip(values) {
        assert_eq!(lease.entry.key, key);
        let written = registry.renew(lease, &attrs()).await;
        assert!(matches!(written, Ok(Write::Done(_))), "{key}: {written:?}");
        assert_eq!(registry.list(&Scope::Key(key.to_owned())).await.unwrap().leases().count(), 1);
    }
}

#[tokio::test]
async fn deleted_directory_means_that_all_leases_are_gone() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    for dir in ["/test/network", "/test/network/subnets", "/test"] {
        let lease = create(&registry, "10.1.1.0/24").await;
        let other = create(&registry, "10.1.2.0/24").await;
        let (all, own) = (Scope::All, Scope::Key(lease.entry.key.clone()));
        let mut watch = registry.watch(&all, other.entry.revision).await.unwrap();
        let mut own_watch = registry.watch(&own, other.entry.revision).await.unwrap();
        operator.remove(dir).await;
        let batch = watch.next().await.unwrap();
        let revision = batch.revision;
        assert_eq!(batch.changes, [Change::Cleared { revision }], "{dir}");
        // One that asks later hears of it, too.
        let mut late = registry.watch(&all, other.entry.revision).await.unwrap();
        assert_eq!(late.next().await.unwrap().changes, [Change::Cleared { revision }], "{dir}");
        let key = lease.entry.key.clone();
        assert_eq!(own_watch.next().await.unwrap().changes, [Change::Delete { key, revision }]);
        assert_eq!(registry.list(&all).await.unwrap().entries, []);
        assert_eq!(registry.renew(&lease, &attrs()).await, Ok(Write::Refused(None)));
        // The watch goes on behind it.
        create(&registry, "10.1.3.0/24").await;
        assert!(matches!(watch.next().await.unwrap().changes[..], [Change::Put(Ok(_))]));
        registry
            .delete(&registry.list(&all).await.unwrap().entries.pop().unwrap().unwrap())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn directories_and_keys_elsewhere_are_no_leases() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    let lease = create(&registry, "10.1.1.0/24").await;
    operator.put("/test/network/subnets-old/10.1.9.0-24", "", "{}").await;
    operator.put("/test/network/subnets/10.1.2.0-24/below", "", "{}").await;
    operator.remove("/test/network/subnets-old").await;
    let subnet = "10.1.2.0/24".parse().unwrap();
    let listed = registry.list(&Scope::All).await.unwrap();
    assert_eq!((listed.entries.len(), listed.leases().count()), (2, 1));
    assert!(listed.taken().any(|taken| taken == subnet), "nobody can have it");
    let error = registry.create(subnet, &attrs()).await;
    assert!(matches!(error, Ok(Write::Refused(_))), "{error:?}");
    operator.remove("/test/network/subnets/10.1.2.0-24").await;
    create(&registry, "10.1.2.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    let mut changes = Vec::new();
    while !matches!(changes.last(), Some(Change::Put(Ok(_)))) {
        changes.extend(watch.next().await.unwrap().changes);
    }
    let [Change::Delete { key, .. }, Change::Put(Ok(_))] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!(key, "10.1.2.0-24");
}

#[tokio::test]
async fn announcing_puts_no_expiry_off() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    operator.put("/test/network/subnets/10.1.1.0-24", "ttl=600", &attrs().to_json()).await;
    let found = registry.list(&Scope::All).await.unwrap().entries.remove(0).unwrap();
    let Ok(Write::Done(announced)) = registry.announce(&found).await else { panic!() };
    let left = registry.time_left(&announced).await.unwrap();
    assert!((500..=600).contains(&left.as_secs()), "{left:?}");
    let Ok(Write::Done(renewed)) = registry.renew(&announced, &attrs()).await else { panic!() };
    let left = registry.time_left(&renewed).await.unwrap();
    assert!((86_300..=86_400).contains(&left.as_secs()), "{left:?}");
}

#[tokio::test]
async fn unknown_revision_is_never_as_seen() {
    let server = v2_server().await;
    let registry = registry(&[&server.url]);
    let lease = create(&registry, "10.1.1.0/24").await;
    let entry = Entry { revision: Revision::UNKNOWN, ..lease.entry.clone() };
    let unknown = Stored { entry, ..lease.clone() };
    let now = Ok(Write::Refused(Some(Ok(lease.map(|it| Lease { expires: None, ..it })))));
    assert_eq!(registry.renew(&unknown, &attrs()).await, now);
    assert_eq!(registry.announce(&unknown).await, now);
    assert_eq!(registry.delete(&unknown).await, Ok(false));
}

#[tokio::test]
async fn deletion_is_one_that_stock_understands() {
    let server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    let lease = create(&registry, "10.1.1.0/24").await;
    assert_eq!(registry.delete(&lease).await, Ok(true));
    let path = path_of("/test/network/subnets");
    let after = lease.entry.revision.0 + 1;
    let wait = format!("{path}?recursive=true&wait=true&waitIndex={after}");
    let event = operator.ask(&Request::new(hyper::Method::GET, wait)).await;
    assert!(event.starts_with(r#"{"action":"delete","#), "{event}");
}

#[tokio::test]
async fn dead_and_silent_endpoints_among_living_ones_are_passed_over() {
    let server = v2_server().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let registry = hasty(&["http://127.0.0.1:1", &silent_url, &server.url]);
    let lease = create(&registry, "10.1.1.0/24").await;
    assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 1);
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&registry, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn endpoint_that_goes_away_ends_the_watch_and_the_next_one_goes_on() {
    let server = v2_server().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = format!("http://{}", listener.local_addr().unwrap());
    let to = server.url.trim_start_matches("http://").to_owned();
    let proxy = tokio::spawn(async move {
        let mut carried = tokio::task::JoinSet::new(); // ends with the task
        loop {
            let (mut inner, _) = listener.accept().await.unwrap();
            let mut outer = tokio::net::TcpStream::connect(&to).await.unwrap();
            carried.spawn(async move {
                drop(tokio::io::copy_bidirectional(&mut inner, &mut outer).await);
            });
        }
    });
    let registry = registry(&[&first, &server.url]);
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    proxy.abort();
    let end = watch.next().await;
    assert!(matches!(end, Err(RegistryError::WatchEnded { .. })), "{end:?}");
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&registry, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn hung_server_ends_a_watch_and_answers_again_later() {
    let server = v2_server().await;
    let registry = hasty(&[&server.url]);
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    // Silence alone is no end.
    assert!(
        tokio::time::timeout(Timings::HASTY.silence * 3, watch.next()).await.is_err(),
        "nothing to say"
    );
    server.signal("STOP");
    let end = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    assert!(matches!(end, Ok(Err(RegistryError::WatchEnded { .. }))), "{end:?}");
    assert!(registry.list(&Scope::All).await.is_err());
    server.signal("CONT");
    let deadline = Instant::now() + Duration::from_secs(120);
    while registry.list(&Scope::All).await.is_err() {
        assert!(Instant::now() < deadline, "the server is back");
    }
}

#[tokio::test]
async fn store_that_was_wiped_is_set_back() {
    let mut server = v2_server().await;
    let (registry, operator) = (registry(&[&server.url]), Operator::of(&server.url));
    for number in 0..10 {
        operator.put("/busy", "", &number.to_string()).await;
    }
    let list = registry.list(&Scope::All).await.unwrap();
    let mut watch = registry.watch(&Scope::All, list.revision).await.unwrap();
    server.kill();
    let end = watch.next().await;
    assert!(matches!(end, Err(RegistryError::WatchEnded { .. })), "{end:?}");
    server.restart_empty().await;
    let mut watch = registry.watch(&Scope::All, list.revision).await.unwrap();
    let after = list.revision;
    assert_eq!(watch.next().await, Err(RegistryError::SetBack { after }));
}

fn config(urls: &[&str]) -> EtcdConfig {
    EtcdConfig {
        endpoints: urls.iter().map(|&url| url.to_owned()).collect(),
        prefix: "/test//network/".to_owned(),
        ..EtcdConfig::default()
    }
}

fn registry(urls: &[&str]) -> Etcd2Registry {
    Etcd2Registry::patient(&config(urls))
}

/// One that does not wait for long, as there is a server that does not answer.
fn hasty(urls: &[&str]) -> Etcd2Registry {
    Etcd2Registry::with_timings(&config(urls), Timings::HASTY).unwrap()
}

fn attrs() -> LeaseAttrs {
    LeaseAttrs::udp([192, 0, 2, 1].into())
}

async fn create(registry: &Etcd2Registry, subnet: &str) -> Stored<Lease> {
    match registry.create(subnet.parse().unwrap(), &attrs()).await {
        Ok(Write::Done(lease)) => lease,
        refused => panic!("{refused:?}"),
    }
}
