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
        let expired = Lease { expires: Instant::now().checked_sub(HOUR / 60), ..lease };
        server.kill();
        let claim = claim();
        let mut keeper = Keeper::new(&registry, expired, EXIT, &claim, |_| {});
        assert_eq!(keeper.renew().await, Ok(()), "nobody else has it, as far as is known");
        server.restart().await;
        let mut client = server.client().await;
        client.lease_revoke(id.get()).await.unwrap();
        if let Some(thief) = thief {
            let value = LeaseAttrs::udp(thief).to_json();
            client.put(format!("/renew/subnets/{KEY}"), value, None).await.unwrap();
        }
        let lost = loop {
            match keeper.renew().await {
                Err(lost) => break Some(lost),
                Ok(()) if keeper.lease.expires > Some(Instant::now()) => break None,
                Ok(()) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let (subnet, owner) = (keeper.lease.subnet, OURS);
        let expected = thief.map(|new_owner| LeaseLost::TakenOver { subnet, owner, new_owner });
        assert_eq!(lost, expected);
    }
}
