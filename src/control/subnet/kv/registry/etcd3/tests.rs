use std::future::pending;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use ipnetwork::Ipv4Network;

use super::*;
use crate::control::subnet::kv::registry::conformance::Rig;
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::subnet::kv::registry::{Change, LeaseWatch};
use crate::control::subnet::kv::registry::{Stored, conformance};
use crate::routes::Prefix;

mod access;
mod giants;
mod settings;

/// A registry in etcd, with the operator's `etcdctl`.
struct EtcdRig {
    registry: EtcdRegistry,
    client: Client,
}

impl Rig for EtcdRig {
    type Registry = EtcdRegistry;

    fn registry(&self) -> &EtcdRegistry {
        &self.registry
    }

    async fn set_config(&self, text: &str) {
        let key = self.registry.keys.config.clone();
        self.client.clone().put(key, text, None).await.unwrap();
    }

    async fn put(&self, key: &str, value: &str) {
        let key = self.registry.keys.full(key);
        self.client.clone().put(key, value, None).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        let key = self.registry.keys.full(key);
        self.client.clone().delete(key, None).await.unwrap();
    }

    async fn expire(&self, lease: &Stored<Lease>) {
        // To a watch, a revoked etcd lease looks as one that ran out.
        let TtlLease(id) = lease.entry.ttl_lease.unwrap();
        self.client.clone().lease_revoke(id.get()).await.unwrap();
    }

    async fn compact(&self) {
        let revision = self.registry.list(&Scope::All).await.unwrap().revision;
        self.client.clone().compact(revision.0, None).await.unwrap();
    }
}

#[tokio::test]
async fn keeps_the_promises_of_a_registry() {
    let server = EtcdServer::start().await;
    let rig = EtcdRig { registry: registry(&[&server.url]).await, client: server.client().await };
    // A neighbour whose name begins with ours is none of our business.
    let neighbour = "/test/network/subnets-meta/10.1.1.0-24";
    rig.client.clone().put(neighbour, "{}", None).await.unwrap();
    conformance::check(&rig).await;
}

#[tokio::test]
async fn key_beside_ours_that_stock_watches_too_is_a_foreign_one() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    let mut client = server.client().await;
    for other in ["subnets-meta", "subnets", "subnets-old/10.1.2.0-24", "subnets0"] {
        client.put(format!("/test/network/{other}"), "{}", None).await.unwrap();
        assert_eq!(watch.next().await.unwrap().changes, [Change::Foreign], "{other}");
    }
    for not_stocks in ["config", "subnet", "subnett"] {
        client.put(format!("/test/network/{not_stocks}"), "{}", None).await.unwrap();
    }
    client.delete("/test/network/subnets-meta", None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes, [Change::Foreign], "it is gone");
    assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 1, "not listed");
}

#[tokio::test]
async fn lost_race_leaves_no_etcd_lease_behind() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let mut client = server.client().await;
    create(&registry, "10.1.1.0/24").await;
    let second = registry.create("10.1.1.0/24".parse().unwrap(), &attrs()).await;
    assert!(matches!(second, Ok(Write::Refused(Some(Ok(_))))), "{second:?}");
    assert_eq!(client.leases().await.unwrap().leases().len(), 1);
}

#[tokio::test]
async fn lease_of_a_shorter_time_is_renewed_for_the_whole_one() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let mut client = server.client().await;
    let short = client.lease_grant(600, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(short);
    client.put(registry.keys.full("10.1.1.0-24"), attrs().to_json(), Some(options)).await.unwrap();
    let found = registry.list(&Scope::All).await.unwrap().entries.remove(0).unwrap();
    let Ok(Write::Done(renewed)) = registry.renew(&found, &attrs()).await else { panic!() };
    let TtlLease(id) = renewed.entry.ttl_lease.unwrap();
    assert_ne!(id.get(), short);
    let ttl = client.lease_time_to_live(id.get(), None).await.unwrap().ttl();
    assert!(ttl > 86_000, "{ttl}");
}

#[tokio::test]
async fn announcing_puts_no_expiry_off() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let mut client = server.client().await;
    let short = client.lease_grant(600, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(short);
    client.put(registry.keys.full("10.1.1.0-24"), attrs().to_json(), Some(options)).await.unwrap();
    let found = registry.list(&Scope::All).await.unwrap().entries.remove(0).unwrap();
    let Ok(Write::Done(announced)) = registry.announce(&found).await else { panic!() };
    assert_eq!(announced.entry.ttl_lease, found.entry.ttl_lease);
    let ids = client.leases().await.unwrap();
    assert_eq!(ids.leases().len(), 1, "no new etcd lease");
    let ttl = client.lease_time_to_live(short, None).await.unwrap().ttl();
    assert!((500..=600).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn listing_of_a_hundred_thousand_leases_is_complete_and_sorted() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let mut client = server.client().await;
    // One more than fits on the last page.
    let num = 100_001;
    let subnets: Vec<Ipv4Network> =
        (0..num).map(|i| Ipv4Network::containing((i << 8).into(), 24).unwrap()).collect();
    for some in subnets.chunks(100) {
        let put = |subnet: &Ipv4Network| {
            TxnOp::put(registry.keys.full(&print_key(*subnet)), attrs().to_json(), None)
        };
        client.txn(Txn::new().and_then(some.iter().map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let snapshot = registry.list(&Scope::All).await.unwrap();
    let mut listed: Vec<Ipv4Network> = snapshot.leases().map(|lease| lease.subnet).collect();
    assert!(snapshot.leases().map(|lease| &lease.entry.key).is_sorted());
    listed.sort_unstable();
    assert_eq!(listed, subnets);
}

#[tokio::test]
async fn dead_and_silent_endpoints_among_living_ones_are_passed_over() {
    let server = EtcdServer::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let registry = hasty(&["http://127.0.0.1:1", &silent_url, &server.url]).await;
    create(&registry, "10.1.1.0/24").await;
    assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn first_answer_does_not_wait_for_a_silent_server() {
    let server = EtcdServer::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let hour = Duration::from_secs(3600);
    // A server that takes as long as it likes, as when nobody answers for its name.
    let timings = Timings { connect: hour, call: hour, ..Timings::HASTY };
    let config = config(&[&silent_url, &silent_url, &server.url]);
    let registry = EtcdRegistry::with_timings(&config, timings).await.unwrap();
    let first = tokio::time::timeout(hour / 30, registry.config()).await;
    assert_eq!(first.unwrap(), Ok(None));
    // The one that answered is asked from here on.
    let listed = tokio::time::timeout(hour / 30, registry.list(&Scope::All)).await;
    assert_eq!(listed.unwrap().unwrap().entries.len(), 0);
}

#[tokio::test]
async fn connection_that_fell_silent_is_not_used_again() {
    let server = EtcdServer::start().await;
    let (url, frozen) = proxy(server.url.trim_start_matches("http://").to_owned()).await;
    let registry = hasty(&[&url]).await;
    assert_eq!(registry.config().await, Ok(None));
    frozen.send_replace(1); // the connections made so far, as when a router forgets them
    let error = registry.config().await.unwrap_err().to_string();
    let late = format!(" (no answer within {:?}); ", Timings::HASTY.call);
    assert!(error.contains(&late), "{error}");
    assert_eq!(registry.config().await, Ok(None));
}

#[tokio::test]
async fn reconnecting_leaves_a_silent_connection_behind_at_once() {
    let server = EtcdServer::start().await;
    let (url, num_frozen) = proxy(server.url.trim_start_matches("http://").to_owned()).await;
    let registry = registry(&[&url]).await;
    registry.config().await.unwrap();
    num_frozen.send_replace(1);
    registry.reconnect().await;
    // On the silent connection it would be an error.
    assert_eq!(registry.config().await, Ok(None));
}

#[tokio::test]
async fn slow_server_is_waited_for_and_a_sluggish_one_passed_over() {
    let server = EtcdServer::start().await;
    let addr = server.url.trim_start_matches("http://");
    let slow = slow_proxy(addr.to_owned(), Duration::from_millis(100)).await;
    let sluggish = slow_proxy(addr.to_owned(), Timings::HASTY.call * 2).await;
    let registry = hasty(&[&sluggish, &slow]).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let before = Revision(lease.entry.revision.0 - 1);
    let mut watch = registry.watch(&Scope::All, before).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    assert!(matches!(registry.renew(&lease, &attrs()).await, Ok(Write::Done(_))));
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

/// A TCP proxy that holds everything back for a while.
async fn slow_proxy(to: String, delay: Duration) -> String {
    async fn carry(from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
        let mut buffer = [0; 1 << 16];
        while let Ok(()) = from.readable().await {
            match from.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => {
                    tokio::time::sleep(delay).await;
                    if to.write_all(&buffer[..len]).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((inner, _)) = listener.accept().await {
            let (from_client, to_client) = inner.into_split();
            let (from_server, to_server) = TcpStream::connect(&to).await.unwrap().into_split();
            tokio::spawn(carry(from_client, to_server, delay));
            tokio::spawn(carry(from_server, to_client, delay));
        }
    });
    url
}

/// A TCP proxy that carries nothing more on the first so many connections.
async fn proxy(to: String) -> (String, watch::Sender<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, num_frozen) = watch::channel(0);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut inner, _) = listener.accept().await.unwrap();
            let mut outer = TcpStream::connect(&to).await.unwrap();
            let mut num_frozen = num_frozen.clone();
            tokio::spawn(async move {
                let is_frozen = tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => false,
                    frozen = num_frozen.wait_for(|&num| number < num) => frozen.is_ok(),
                };
                if is_frozen {
                    pending().await // holds both ends open
                }
            });
        }
    });
    (url, sender)
}

#[tokio::test]
async fn no_endpoint_that_answers_is_an_error_that_names_each() {
    let registry = registry(&["http://127.0.0.1:1", "http://127.0.0.1:2"]).await;
    let error = registry.config().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "read network config: etcd does not answer at 127.0.0.1:1 (refused) and at 127.0.0.1:2 \
         (refused); --etcd-endpoints says where it is"
    );
}

#[tokio::test]
async fn hung_server_ends_a_watch_and_answers_again_later() {
    let server = EtcdServer::start().await;
    let registry = hasty(&[&server.url]).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let after = lease.entry.revision;
    let mut watch = registry.watch(&Scope::All, after).await.unwrap();
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
async fn silent_watch_stays_open_while_the_server_shows_life() {
    let server = EtcdServer::start().await;
    let timings = Timings { silence: Timings::HASTY.silence, ..Timings::PATIENT };
    let config = config(&[&server.url]);
    let registry = EtcdRegistry::with_timings(&config, timings).await.unwrap();
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    assert!(
        tokio::time::timeout(timings.silence * 4, watch.next()).await.is_err(),
        "nothing to tell"
    );
    create(&registry, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

fn config(urls: &[&str]) -> EtcdConfig {
    EtcdConfig {
        endpoints: urls.iter().map(|&url| url.to_owned()).collect(),
        prefix: "/test//network/".to_owned(),
        ..EtcdConfig::default()
    }
}

async fn registry(urls: &[&str]) -> EtcdRegistry {
    EtcdRegistry::patient(&config(urls)).await
}

/// One that does not wait for long, as there is a server that does not answer.
async fn hasty(urls: &[&str]) -> EtcdRegistry {
    EtcdRegistry::with_timings(&config(urls), Timings::HASTY).await.unwrap()
}

fn attrs() -> LeaseAttrs {
    LeaseAttrs::udp([192, 0, 2, 1].into())
}

async fn create(registry: &EtcdRegistry, subnet: &str) -> Stored<Lease> {
    match registry.create(subnet.parse().unwrap(), &attrs()).await {
        Ok(Write::Done(lease)) => lease,
        refused => panic!("{refused:?}"),
    }
}
