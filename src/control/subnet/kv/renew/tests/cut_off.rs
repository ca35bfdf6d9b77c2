//! A node cut off from its registry beyond its lease's end: it goes on until it knows better.

use super::*;

#[tokio::test(start_paused = true)]
async fn cut_off_beyond_its_lease_a_node_goes_on_and_settles_when_the_registry_is_back() {
    for policy in [EXIT, REACQUIRE] {
        for (thief, expected) in [
            (None, None),
            (Some((KEY, THEIRS)), Some("lease 10.1.1.0/24 of 192.0.2.1 now belongs to 192.0.2.2")),
            (
                Some(("10.1.0.0-23", THEIRS)),
                Some("lease 10.1.1.0/24 of 192.0.2.1 now belongs to 192.0.2.2"),
            ),
        ] {
            let logs = Logs::capture();
            let registry = MemoryRegistry::new();
            let lease = create(&registry).await;
            let claim = claim();
            let mut keep = pin!(keep_lease(&registry, &lease, policy, &claim, |_| {}));
            registry.fail_next(100_000, Fault::NotAsked);
            registry.end_watches();
            tokio::select! {
                lost = &mut keep => panic!("while cut off: {lost}"),
                () = pass(&registry, LEASE_TTL + HOUR * 2) => {}
            }
            let told = logs.lines_with("the lease expired 1h");
            assert!(!told.is_empty(), "{:?}", logs.lines_with("").pop());
            if let Some((key, thief)) = thief {
                registry.put(key, &LeaseAttrs::udp(thief).to_json());
            }
            registry.heal();
            let lost = tokio::select! {
                lost = &mut keep => Some(lost.to_string()),
                () = pass(&registry, Duration::from_secs(300)) => None,
            };
            assert_eq!(lost.as_deref(), expected);
            let expected = match thief {
                None => Some(OURS),
                Some((KEY, thief)) => Some(thief),
                Some(_) => None, // the overlapping one is all there is
            };
            assert_eq!(owner(&registry).await, expected);
        }
    }
}

#[tokio::test]
async fn cut_off_from_a_real_etcd_beyond_its_lease_a_node_settles_when_it_is_back() {
    for thief in [None, Some(THEIRS)] {
        // A line first logged while this thread has no subscriber would never reach another's.
        let _logs = Logs::capture();
        let mut server = EtcdServer::start().await;
        let registry = real(&server).await;
        let lease = create(&registry).await;
        let TtlLease(id) = lease.entry.ttl_lease.unwrap();
        // Its time is over, as far as this node can tell.
        let expired =
            lease.map(|it| Lease { expires: Instant::now().checked_sub(HOUR / 60), ..it });
        server.kill();
        let claim = claim();
        let mut renewer = LeaseRenewer::new(&registry, expired, EXIT, &claim, |_| {});
        assert_eq!(renewer.renew().await, Ok(()), "nobody else has it, as far as is known");
        server.restart().await;
        let mut client = server.client().await;
        client.lease_revoke(id.get()).await.unwrap();
        if let Some(thief) = thief {
            let value = LeaseAttrs::udp(thief).to_json();
            client.put(format!("/renew/subnets/{KEY}"), value, None).await.unwrap();
        }
        let lost = loop {
            match renewer.renew().await {
                Err(lost) => break Some(lost),
                Ok(()) if renewer.lease.expires > Some(Instant::now()) => break None,
                Ok(()) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let (subnet, owner) = (renewer.lease.subnet, OURS);
        let expected = thief.map(|new_owner| LeaseLost::TakenOver { subnet, owner, new_owner });
        assert_eq!(lost, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_that_cannot_be_written_is_told_of_until_it_is() {
    let _logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut keep = pin!(keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}));
    registry.refuse_writes(true);
    let told = [
        (HOUR, "our lease 10.1.1.0/24 cannot be written and stands until "),
        (HOUR * 24, "our lease 10.1.1.0/24 cannot be written and is gone from the registry: "),
    ];
    for (time, expected) in told {
        tokio::select! {
            lost = &mut keep => panic!("{lost}"),
            () = pass(&registry, time) => {}
        }
        let failure = claim.write_failure().unwrap_or_default();
        assert!(failure.starts_with(expected), "{failure}");
        assert!(failure.ends_with("lease: writes are refused"), "{failure}");
        assert_eq!(claim.is_gone(), failure.contains("is gone"));
    }
    registry.refuse_writes(false);
    tokio::select! {
        lost = &mut keep => panic!("{lost}"),
        () = tokio::time::sleep(Duration::from_secs(100)) => {}
    }
    assert_eq!((claim.write_failure(), claim.is_gone()), (None, false));
    assert_eq!(owner(&registry).await, Some(OURS));
}

#[tokio::test]
async fn lease_that_a_full_etcd_still_keeps_alive_stands_for_as_long_as_etcd_says() {
    let logs = Logs::capture();
    let server = EtcdServer::start_small().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    server.fill().await;
    let nearly_over =
        lease.map(|it| Lease { expires: Some(Instant::now() + Duration::from_secs(60)), ..it });
    let (claim, mut held) = (claim(), Vec::new());
    let mut renewer = LeaseRenewer::new(&registry, nearly_over, EXIT, &claim, |lease| {
        held.push(lease.expires);
    });
    assert_eq!(renewer.announce().await, Ok(()));
    assert_eq!(renewer.renew().await, Ok(()));
    let left = renewer.lease.expires.unwrap().saturating_duration_since(Instant::now());
    assert!(left > LEASE_TTL - Duration::from_secs(60), "{left:?}");
    assert!(renewer.renew_at.unwrap() < Instant::now() + Duration::from_secs(120), "tried again");
    let last = renewer.lease.expires;
    drop(renewer);
    assert_eq!(held.pop(), Some(last));
    let failure = claim.write_failure().unwrap_or_default();
    assert!(failure.contains("has no space left"), "{failure}");
    assert_eq!(logs.count("trying again, the lease holds for another 23h59m"), 2);
}
