//! Stores with values that no lease has.

use super::*;
use crate::control::subnet::kv::list_watch::{ListWatch, Update};

const MEGABYTE: usize = 1_000_000;

#[tokio::test]
async fn seventy_values_of_a_megabyte_are_skipped_and_the_leases_among_them_listed() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    create(&registry, "10.1.0.0/24").await;
    put_values(&server, &registry, 1..=70, MEGABYTE).await;
    create(&registry, "10.1.99.0/24").await;
    let snapshot = registry.list(&Scope::All).await.unwrap();
    let leases: Vec<&str> = snapshot.leases().map(|lease| lease.entry.key.as_str()).collect();
    assert_eq!(leases, ["10.1.0.0-24", "10.1.99.0-24"]);
    assert_eq!(snapshot.entries.len(), 72);
    assert_eq!(snapshot.taken().count(), 72, "their subnets are taken all the same");
    let Err(giant) = &snapshot.entries[1] else { panic!("{:?}", snapshot.entries[1]) };
    assert_eq!(
        giant.to_string(),
        "entry 10.1.1.0-24: the value has 1000000 bytes; no lease has as many"
    );
    let one = registry.list(&Scope::Key("10.1.1.0-24".to_owned())).await.unwrap();
    assert_eq!(one.entries, snapshot.entries[1..2]);
}

#[tokio::test]
async fn eighty_megabytes_written_while_nobody_watched_are_caught_up_with() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let first = create(&registry, "10.1.0.0/24").await;
    put_values(&server, &registry, 1..=80, MEGABYTE).await;
    create(&registry, "10.1.99.0/24").await;
    let mut feed = ListWatch::after(&registry, Scope::All, first.entry.revision);
    learns(&mut feed, "10.1.99.0-24").await;
    create(&registry, "10.1.98.0/24").await;
    learns(&mut feed, "10.1.98.0-24").await;
}

#[tokio::test]
async fn value_longer_than_a_message_is_skipped_wherever_it_stands() {
    let server = EtcdServer::start_with(&["--max-request-bytes=20000000"]).await;
    let registry = registry(&[&server.url]).await;
    let first = create(&registry, "10.1.0.0/24").await;
    create(&registry, "10.1.2.0/24").await;
    let mut feed = ListWatch::after(&registry, Scope::All, first.entry.revision);
    learns(&mut feed, "10.1.2.0-24").await;
    put_values(&server, &registry, [1, 3], MAX_MESSAGE_LEN + MEGABYTE).await;
    create(&registry, "10.1.4.0/24").await;
    learns(&mut feed, "10.1.4.0-24").await;
    let snapshot = registry.list(&Scope::All).await.unwrap();
    let keys: Vec<&str> = snapshot.leases().map(|lease| lease.entry.key.as_str()).collect();
    assert_eq!(keys, ["10.1.0.0-24", "10.1.2.0-24", "10.1.4.0-24"]);
    let one = registry.list(&Scope::Key("10.1.1.0-24".to_owned())).await.unwrap();
    let [Err(giant)] = &one.entries[..] else { panic!("{one:?}") };
    assert_eq!(giant.reason, LeaseError::Giant);
    assert_eq!(snapshot.entries[1], one.entries[0]);
}

#[tokio::test]
async fn key_of_any_length_is_one_short_error() {
    let server = EtcdServer::start().await;
    let registry = registry(&[&server.url]).await;
    let first = create(&registry, "10.1.0.0/24").await;
    for i in 0..10 {
        let key = registry.keys.full(&format!("{}{i}", "k".repeat(MEGABYTE)));
        server.client().await.put(key.clone(), "{}", None).await.unwrap();
        server.client().await.delete(key, None).await.unwrap();
    }
    let key = registry.keys.full(&format!("{}-24", "10.1.1.0".repeat(1000)));
    server.client().await.put(key, "{}", None).await.unwrap();
    let snapshot = registry.list(&Scope::All).await.unwrap();
    let Err(malformed) = &snapshot.entries[1] else { panic!() };
    assert!(malformed.key.len() < 600, "{malformed}");
    let mut watch = registry.watch(&Scope::All, first.entry.revision).await.unwrap();
    let mut puts = Vec::new();
    while puts.len() < 10 {
        for change in watch.next().await.unwrap().changes {
            match change {
                Change::Put(Err(malformed)) => puts.push(malformed.key),
                Change::Delete { key, .. } => assert_eq!(puts.last(), Some(&key)),
                Change::Put(Ok(lease)) => panic!("{lease:?}"),
                Change::Cleared { .. } | Change::Foreign => panic!("none of ours"),
            }
        }
    }
    puts.sort_unstable();
    puts.dedup();
    assert!(puts.len() >= 10, "each has a name of its own");
}

/// Writes values of `len` bytes to subnets `10.1.<i>.0/24`.
async fn put_values(
    server: &EtcdServer,
    registry: &EtcdRegistry,
    subnets: impl IntoIterator<Item = u8>,
    len: usize,
) {
    let value = format!(r#"{{"PublicIP":"192.0.2.9","note":"{}"}}"#, "x".repeat(len));
    for i in subnets {
        let key = registry.keys.full(&format!("10.1.{i}.0-24"));
        server.client().await.put(key, &value[..len], None).await.unwrap();
    }
}

/// Waits until the feed has reported the lease of `key`.
async fn learns(feed: &mut ListWatch<'_, EtcdRegistry>, key: &str) {
    loop {
        let update = tokio::time::timeout(Duration::from_secs(120), feed.next()).await;
        let entries: Vec<Read> = match update.expect("news in time") {
            Update::Changes(changes) => changes
                .into_iter()
                .filter_map(|change| match change {
                    Change::Put(entry) => Some(entry),
                    Change::Delete { .. } | Change::Cleared { .. } | Change::Foreign => None,
                })
                .collect(),
            Update::Snapshot(all) | Update::Relisted(all, _) | Update::Reset(all) => all.entries,
        };
        if entries.iter().flatten().any(|lease| lease.entry.key == key) {
            return;
        }
    }
}
