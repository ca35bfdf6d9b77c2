//! No etcd lease is left behind, however our entry is deleted, overwritten or fought for.

use super::*;
use crate::control::subnet::kv::renew::renewer::RELEASE_TIMEOUT;

/// How many etcd leases there are.
async fn num_ttl_leases(server: &EtcdServer) -> usize {
    server.client().await.leases().await.unwrap().leases().len()
}

#[tokio::test]
async fn two_hundred_deletions_leave_no_etcd_lease_behind() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let claim = claim();
    let mut client = server.client().await;
    let key = format!("/renew/subnets/{KEY}");
    let operator = async {
        for _ in 0..200 {
            client.delete(key.clone(), None).await.unwrap();
            until_owned(&registry).await;
        }
        // The last one may not have been given back yet.
        until_bounded(&server).await;
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => panic!("{lost}"),
        () = operator => {}
    }
}

#[tokio::test]
async fn entry_made_a_reservation_and_deleted_in_turn_leaves_no_etcd_lease_behind() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let claim = claim();
    let mut client = server.client().await;
    let key = format!("/renew/subnets/{KEY}");
    let operator = async {
        for _ in 0..20 {
            let reserved = client.put(key.clone(), LeaseAttrs::udp(OURS).to_json(), None).await;
            let revision = reserved.unwrap().header().unwrap().revision();
            eventually(|| async { registry_knows(&registry, revision).await }).await;
            client.delete(key.clone(), None).await.unwrap();
            until_owned(&registry).await;
        }
        until_bounded(&server).await;
        // Stock with our public IP: a new etcd lease each time, which replaces ours.
        for _ in 0..20 {
            let id = client.lease_grant(86400, None).await.unwrap().id();
            let options = etcd_client::PutOptions::new().with_lease(id);
            let value = LeaseAttrs::udp(OURS).to_json();
            client.put(key.clone(), value, Some(options)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_bounded(&server).await;
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => panic!("{lost}"),
        () = operator => {}
    }
}

#[tokio::test]
async fn renewals_restarts_and_lost_leases_leave_no_etcd_lease_behind() {
    let server = EtcdServer::start().await;
    let config = parse(r#"{"Network":"10.1.0.0/16"}"#, None).unwrap();
    let other_config = parse(r#"{"Network":"10.2.0.0/16"}"#, None).unwrap();
    let mut client = server.client().await;
    let mut num_late = 0;
    for turn in 0..12 {
        // A process of its own, each time.
        let registry = real(&server).await;
        // Every fourth one with another network, where the lease of the one before does not fit.
        let config = if turn % 4 == 3 { &other_config } else { &config };
        let attrs = LeaseAttrs::udp(OURS);
        let lease = acquire_lease(&registry, config, &attrs, None).await.unwrap().lease;
        let key = format!("/renew/subnets/{}", lease.entry.key);
        let claim = ConflictTracker::new(lease.subnet.into(), OURS);
        let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
        for _ in 0..5 {
            assert_eq!(renewer.renew().await, Ok(()));
        }
        let lease = renewer.lease.clone();
        let operator = async {
            match turn % 3 {
                0 => drop(client.delete(key, None).await.unwrap()),
                1 => drop(client.put(key, LeaseAttrs::udp(THEIRS).to_json(), None).await.unwrap()),
                _ => {}
            }
            std::future::pending::<()>().await;
        };
        let limit = Duration::from_millis(if turn % 3 == 2 { 50 } else { 120_000 });
        let start = Instant::now();
        let keep = keep_lease(&registry, &lease, EXIT, &claim, |_| {});
        let lost = tokio::time::timeout(limit, async {
            tokio::select! {
                lost = keep => lost,
                () = operator => unreachable!(),
            }
        });
        assert_eq!(lost.await.is_ok(), turn % 3 != 2, "turn {turn}");
        // Tidying up has its limit, which a slow machine may reach.
        num_late += usize::from(turn % 3 != 2 && start.elapsed() >= RELEASE_TIMEOUT);
    }
    let num = num_ttl_leases(&server).await;
    assert!(num <= 2 + num_late, "{num} etcd leases");
}

/// Of another writer's entry, the etcd lease is none of ours to revoke.
#[tokio::test]
async fn etcd_lease_that_another_owner_took_along_is_left_alone() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let mut client = server.client().await;
    let key = format!("/renew/subnets/{KEY}");
    let options = etcd_client::PutOptions::new().with_ignore_lease();
    let value = LeaseAttrs::udp(THEIRS).to_json();
    let thief = async {
        client.put(key.clone(), value, Some(options)).await.unwrap();
    };
    lost_after(&registry, &lease, thief, Duration::ZERO).await;
    let found = server.client().await.get(key.clone(), None).await.unwrap();
    assert_eq!(found.kvs().len(), 1, "their entry stands");
}

async fn until_bounded(server: &EtcdServer) {
    eventually(|| async { num_ttl_leases(server).await <= 2 }).await;
}

/// Whether our entry is at least as new as that.
async fn registry_knows(registry: &EtcdRegistry, revision: i64) -> bool {
    let snapshot = registry.list(&Scope::Key(KEY.to_owned())).await.unwrap();
    snapshot.leases().any(|lease| lease.entry.revision.0 >= revision)
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within two minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
