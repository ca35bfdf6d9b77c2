//! The registry's history changes while nobody watches it.

use super::*;

/// What may become of an etcd while it is away.
enum Fate {
    Restored,
    Wiped,
    Replaced,
}

#[tokio::test]
async fn etcd_that_was_restored_and_filled_past_our_revision_is_followed_at_once() {
    follow_through(Fate::Restored, "registry is back: it lost 2 of our peers' leases").await;
}

#[tokio::test]
async fn etcd_that_was_wiped_and_filled_past_our_revision_is_followed_at_once() {
    follow_through(Fate::Wiped, "registry is back: it lost 3 of our peers' leases").await;
}

#[tokio::test]
async fn another_etcd_at_the_same_address_is_followed_at_once() {
    let lost = "registry was set back: it lost 3 of our peers' leases (10.1.1.0/24 of 192.0.2.1, ";
    follow_through(Fate::Replaced, lost).await;
}

/// etcd goes away, and when it answers again, other writers have brought it past the last
/// revision that the node saw.
async fn follow_through(fate: Fate, said: &str) {
    let logs = Logs::capture();
    let mut server = EtcdServer::start().await;
    let registry = Arc::new(registry(&server).await);
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let backup = server.save();
    create(&*registry, 3).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let mut expected = vec!["|"];
    expected.extend(["+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2", "+10.1.3.0/24 192.0.2.3"]);
    followed.expect(&expected).await;

    server.kill();
    match fate {
        Fate::Restored => server.restore(&backup),
        Fate::Wiped => server.wipe(),
        Fate::Replaced => server.become_another_cluster(),
    }
    let url = server.restart_hidden().await;
    let mut client = server.client().await;
    client.delete("/watch/subnets/10.1.2.0-24", None).await.unwrap();
    client.put("/watch/subnets/10.1.4.0-24", r#"{"PublicIP":"192.0.2.4"}"#, None).await.unwrap();
    for _ in 0..20 {
        client.put("/other", "", None).await.unwrap();
    }
    server.restart_at(url).await;
    expected.push("+10.1.4.0/24 192.0.2.4");
    followed.expect(&expected).await; // and nothing else: the others have half a minute
    assert_eq!(logs.count(said), 1, "{:?}", logs.lines_with(""));
    assert_eq!(
        logs.count("another registry answers now: etcd cluster "),
        usize::from(said.contains("set back"))
    );
    create(&*registry, 3).await;
    create(&*registry, 5).await;
    expected.push("+10.1.5.0/24 192.0.2.5");
    followed.expect(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn peers_that_a_restored_registry_does_not_have_stand_for_half_a_minute() {
    for (is_past, is_another) in [(false, false), (true, false), (true, true)] {
        let logs = Logs::capture();
        let registry = Arc::new(MemoryRegistry::new());
        create(&*registry, 1).await;
        let backup = registry.backup();
        create(&*registry, 2).await;
        create(&*registry, 3).await;
        let mut followed = Followed::new(Arc::clone(&registry));
        let all =
            ["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2", "+10.1.3.0/24 192.0.2.3"];
        followed.expect(&all).await;

        registry.restore(&backup);
        if is_another {
            registry.change_identity();
        }
        let mut expected = all.to_vec();
        if is_past {
            for _ in 0..5 {
                create(&*registry, 4).await;
                registry.remove("10.1.4.0-24");
            }
            create(&*registry, 5).await;
            expected.push("+10.1.5.0/24 192.0.2.5");
        }
        let went_back = Instant::now();
        tokio::time::sleep(RESET_GRACE - Duration::from_secs(1)).await;
        followed.expect(&expected).await;
        let both =
            "lost 2 of our peers' leases (10.1.2.0/24 of 192.0.2.2, 10.1.3.0/24 of 192.0.2.3)";
        assert!(followed.stale().unwrap().contains(both));
        create(&*registry, 3).await; // its node is quick enough
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(followed.stale().unwrap().contains("lost 1 of our peers' leases (10.1.2.0/24 "));
        expected.push("-10.1.2.0/24");
        followed.expect(&expected).await;
        assert_eq!(followed.stale(), None);
        assert!(went_back.elapsed() < RESET_GRACE + Duration::from_secs(6));
        let lost = "it lost 2 of our peers' leases (10.1.2.0/24 of 192.0.2.2, 10.1.3.0/24 of \
                    192.0.2.3), which stand for 30s";
        assert_eq!(logs.count(lost), 1);
        let is_known_to_be_reset = !is_past || is_another;
        assert_eq!(logs.count("was set back"), usize::from(is_known_to_be_reset));
    }
}

#[tokio::test(start_paused = true)]
async fn deletion_that_a_watch_tells_of_counts_at_once_even_soon_after_an_outage() {
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    followed.expect(&expected).await;
    registry.end_watches();
    create(&*registry, 3).await;
    expected.push("+10.1.3.0/24 192.0.2.3");
    followed.expect(&expected).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    registry.remove("10.1.1.0-24");
    expected.push("-10.1.1.0/24");
    let deleted = Instant::now();
    followed.expect(&expected).await;
    assert!(deleted.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn remembered_peers_that_the_registry_does_not_have_get_the_grace_too() {
    let logs = Logs::capture();
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 2).await;
    let known = InitialLeases::Cached(vec![lease(1), lease(2)]);
    let mut followed = Followed::knowing(known, Arc::clone(&registry));
    followed.expect(&["|"]).await;
    let started = Instant::now();
    tokio::time::sleep(RESET_GRACE - Duration::from_secs(1)).await;
    followed.expect(&["|"]).await;
    followed.expect(&["|", "-10.1.1.0/24"]).await;
    assert!(started.elapsed() < RESET_GRACE + Duration::from_secs(1));
    assert_eq!(logs.count("it lost 1 of our peers' leases (10.1.1.0/24 of 192.0.2.1)"), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_given_up_while_the_registry_is_away() {
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    let backup = registry.backup();
    create(&*registry, 2).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    followed.expect(&expected).await;
    registry.restore(&backup);
    tokio::time::sleep(RESET_GRACE / 2).await;
    // It goes away again before 10.1.2.0/24's node could write its lease.
    registry.end_watches();
    registry.fail_next(1_000_000, Fault::NotAsked);
    tokio::time::sleep(RESET_GRACE * 20).await;
    followed.expect(&expected).await;
    registry.heal();
    tokio::time::sleep(RESET_GRACE - Duration::from_secs(1)).await;
    followed.expect(&expected).await;
    expected.push("-10.1.2.0/24");
    followed.expect(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn watch_that_is_lost_every_few_seconds_does_not_keep_the_dead_alive() {
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let all = ["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    followed.expect(&all).await;
    registry.end_watches();
    registry.remove("10.1.1.0-24");
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        registry.end_watches();
    }
    followed.expect(&[&all[..], &["-10.1.1.0/24"]].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_kept_to_itself_is_found_by_the_next_listing() {
    let logs = Logs::capture();
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    followed.expect(&expected).await;
    let started = Instant::now();
    registry.mute_watches();
    registry.remove("10.1.1.0-24");
    registry.put("10.1.2.0-24", r#"{"PublicIP":"192.0.2.9"}"#);
    create(&*registry, 3).await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    followed.expect(&expected).await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    expected.extend(["+10.1.2.0/24 192.0.2.9", "+10.1.3.0/24 192.0.2.3", "-10.1.1.0/24"]);
    followed.expect(&expected).await;
    assert!(started.elapsed() < Duration::from_secs(1240));
    assert_eq!(logs.count("registry was listed once more: it lost 1 of our peers' leases"), 1);
    // The watch that follows is a good one.
    create(&*registry, 4).await;
    expected.push("+10.1.4.0/24 192.0.2.4");
    followed.expect(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn listing_that_fails_while_the_watch_stands_is_no_outage() {
    let registry = MemoryRegistry::new();
    let in_touch = watch::Sender::new(true);
    let touch = in_touch.subscribe();
    let mut feed = ListWatch::new(&registry, Scope::All).telling(in_touch);
    assert!(matches!(feed.next().await, Update::Snapshot(_)));
    let started = Instant::now();
    assert!(tokio::time::timeout(Duration::from_secs(1), feed.next()).await.is_err());
    registry.fail_next(3, Fault::NotAsked);
    let Update::Relisted(_, gap) = feed.next().await else { panic!() };
    assert_eq!(gap, Gap::None);
    assert!(started.elapsed() > Duration::from_secs(600 + 3 * 60), "three times put off");
    assert!(!touch.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn single_entry_is_listed_again_after_an_outage_and_now_and_then() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry, 1).await;
    let scope = Scope::Key(lease.entry.key.clone());
    let mut feed = ListWatch::after(&registry, scope, lease.entry.revision);
    assert!(tokio::time::timeout(Duration::from_secs(1), feed.next()).await.is_err());
    let backup = registry.backup();
    registry.restore(&backup);
    let Update::Relisted(found, Gap::WatchLost) = feed.next().await else { panic!() };
    assert_eq!(found.entries.len(), 1);
    assert!(tokio::time::timeout(Duration::from_secs(1), feed.next()).await.is_err());
    registry.mute_watches();
    registry.remove("10.1.1.0-24");
    let Update::Relisted(found, Gap::None) = feed.next().await else { panic!() };
    assert_eq!(found.entries, []);
    registry.change_identity();
    assert!(matches!(feed.next().await, Update::Reset(_)));
}
