//! Our lease is written again for stock nodes that missed it, by all nodes together only so often.

use super::*;
use crate::control::subnet::kv::registry::LeaseWatch;
use crate::control::subnet::kv::renew::announcer::Announcer;
use crate::routes::Prefix;

#[tokio::test(start_paused = true)]
async fn lease_is_announced_3_and_30_seconds_after_joining_and_then_every_few_minutes() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let time = async {
        let num_after = async |secs| {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            listed(&registry).await.revision.0 - lease.entry.revision.0
        };
        assert_eq!(num_after(2).await, 0);
        assert_eq!(num_after(3).await, 1, "after 5 s");
        assert_eq!(num_after(40).await, 2, "after 45 s");
        let num = num_after(3600).await - 2;
        assert!((9..=15).contains(&num), "{num} in an hour");
        registry.remove(KEY);
        assert_eq!(num_after(100).await - num - 2, 4, "deleted, created, and announced twice");
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => panic!("{lost}"),
        () = time => {}
    }
    registry.advance(LEASE_TTL);
    assert_eq!(owner(&registry).await, None, "no expiry was put off");
}

#[tokio::test(start_paused = true)]
async fn reservation_is_announced_and_stays_one() {
    let registry = MemoryRegistry::new();
    registry.put(KEY, &LeaseAttrs::udp(OURS).to_json());
    let lease = listed(&registry).await.leases().next().unwrap().clone();
    let claim = claim();
    tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => panic!("{lost}"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    let now = listed(&registry).await.leases().next().unwrap().clone();
    assert_eq!(now.entry.revision.0, lease.entry.revision.0 + 2);
    assert!(now.is_reservation());
}

#[tokio::test(start_paused = true)]
async fn announcement_that_comes_too_late_overwrites_nobody() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
    registry.fail_next(1, Fault::NotAnswered);
    assert_eq!(renewer.announce().await, Ok(()), "made, but not answered");
    assert_eq!(renewer.announce().await, Ok(()), "so this one is refused");
    assert_eq!(claim.conflicts(), [], "by our own write");
    assert_eq!(renewer.announce().await, Ok(()));
    assert_eq!(Some(Ok(renewer.lease.entry.revision)), revision(&registry).await);
    registry.put(KEY, &LeaseAttrs::udp(THEIRS).to_json());
    assert!(matches!(renewer.announce().await, Err(LeaseLost::TakenOver { .. })));
    assert_eq!(owner(&registry).await, Some(THEIRS));
}

/// What happens on a network of 50 nodes, one after the other, and who else is there.
#[tokio::test(start_paused = true)]
async fn fifty_nodes_announce_what_is_needed_and_cause_no_storm() {
    let registry = MemoryRegistry::new();
    let claims: Vec<ConflictTracker> = (1..=50)
        .map(|i| {
            let subnet = Ipv4Network::containing(Ipv4Addr::new(10, 1, i, 0), 24).unwrap();
            ConflictTracker::new(subnet.into(), Ipv4Addr::new(192, 0, 2, i))
        })
        .collect();
    let nodes = claims.iter().map(|claim| node(&registry, claim));
    let num_writes = async |secs: u64| {
        let before = listed(&registry).await.revision.0;
        tokio::time::sleep(Duration::from_secs(secs)).await;
        listed(&registry).await.revision.0 - before
    };
    let happenings = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let joined = listed(&registry).await.revision.0 - 1;
        assert_eq!(joined, 50 * 3, "created, and announced twice");
        let calm = num_writes(3600).await;
        assert!((50 * 9..=50 * 15).contains(&calm), "{calm} writes in a calm hour");

        registry.put("not-a-subnet", "");
        let healed = num_writes(40).await;
        assert!((50..80).contains(&healed), "{healed} writes after a foreign key");
        registry.put("not-a-subnet", "again");
        assert!((50..80).contains(&num_writes(60).await), "overwritten: stock forgets all again");
        registry.remove("not-a-subnet");
        assert!((50..80).contains(&num_writes(60).await), "deleted: the same");

        registry.put("10.1.200.0-24", r#"{"PublicIP":"192.0.2.200","PublicIPv6":null}"#);
        let greeted = num_writes(60).await;
        assert!((50..80).contains(&greeted), "{greeted} writes for a stock peer");
        registry.put("10.1.200.0-24", r#"{"PublicIP":"192.0.2.200","PublicIPv6":null}"#);
        let renewed = num_writes(60).await;
        assert!(renewed < 30, "{renewed} writes though it only renewed its lease");
        registry.put("10.1.201.0-24", &marked([192, 0, 2, 201].into()).to_json());
        let twill = num_writes(60).await;
        assert!(twill < 30, "{twill} writes for a peer that forgets nobody");

        let before = listed(&registry).await.revision.0;
        for i in 0..1000 {
            registry.put(&format!("foreign-{i}"), "");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let flood = listed(&registry).await.revision.0 - before - 1000;
        assert!((50..=50 * 10).contains(&flood), "{flood} writes in 160 s");
    };
    tokio::select! {
        _ = futures_util::future::select_all(nodes.map(Box::pin)) => panic!("a node ended"),
        () = happenings => {}
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_nodes_together_write_a_few_keys_a_second() {
    for has_causes in [false, true] {
        let mut announcer = Announcer::new();
        let mut num_causes = 0;
        let (start, day) = (Instant::now(), HOUR * 24);
        let mut num = 0_u32;
        while start.elapsed() < day * 10 {
            num_causes += u64::from(has_causes);
            announcer.hear(AnnounceCauses::of(10_000, num_causes));
            tokio::time::sleep_until(announcer.due()).await;
            announcer.written();
            num += 1;
        }
        let per_second = 10_000.0 * f64::from(num) / start.elapsed().as_secs_f64();
        assert!((1.0..5.0).contains(&per_second), "{per_second} with causes: {has_causes}");
    }
}

#[tokio::test]
async fn stock_watching_a_real_etcd_learns_of_us_again() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    let claim = claim();
    let (causes, heard) = watch::channel(AnnounceCauses::default());
    let stock = async {
        let batch = watch.next().await.unwrap();
        causes.send_replace(AnnounceCauses::of(1, 1));
        let more = watch.next().await.unwrap();
        assert!(more.revision > batch.revision);
        let ids = server.client().await.leases().await.unwrap();
        assert_eq!(ids.leases().len(), 1, "no new etcd lease");
    };
    let stock = tokio::time::timeout(Duration::from_secs(60), stock);
    tokio::select! {
        lost = super::super::keep_lease(&registry, &lease, EXIT, &claim, heard, |_| {}) => {
            panic!("{lost}")
        }
        done = stock => done.unwrap(),
    }
}

fn marked(public_ip: Ipv4Addr) -> LeaseAttrs {
    let mark = serde_json::json!({"AnySourcePort": true});
    LeaseAttrs::udp(public_ip).with_data(Some(mark))
}

/// A node as in `control::node`, for as long as it is polled.
async fn node(registry: &MemoryRegistry, claim: &ConflictTracker) -> LeaseLost {
    let attrs = marked(claim.public_ip());
    let Ok(Write::Done(lease)) = registry.create(claim.subnets, &attrs).await else { panic!() };
    let known = InitialLeases::Listed(registry.list(&Scope::All).await.unwrap());
    let (causes, heard) = watch::channel(AnnounceCauses::default());
    let in_touch = watch::Sender::new(true);
    let follow = follow_leases(registry, claim, known, in_touch, |update| {
        causes.send_modify(|causes| causes.observe(&update));
    });
    tokio::select! {
        never = follow => match never {},
        lost = super::super::keep_lease(registry, &lease, EXIT, claim, heard, |_| {}) => lost,
    }
}
