//! Our entry, overwritten with what names no other owner: it is still ours.

use super::*;

/// None of these names an owner.
fn ownerless() -> Vec<String> {
    let mut values: Vec<String> = [
        "",
        " ",
        "[]",
        "null",
        "17",
        "true",
        "\"text\"",
        "{",
        "{}",
        r#"{"PublicIP":""}"#,
        r#"{"PublicIP":null}"#,
        r#"{"PublicIP":17}"#,
        r#"{"PublicIP":["192.0.2.2"]}"#,
        r#"{"PublicIP":"192.0.2.256"}"#,
        r#"{"PublicIP":"0.0.0.0"}"#,
        r#"{"PublicIP":"127.0.0.1"}"#,
        r#"{"PublicIP":"255.255.255.255"}"#,
        r#"{"PublicIP":"224.0.0.1"}"#,
        r#"{"PublicIP":"fd00::1"}"#,
        r#"{"PublicIPv6":"fd00::1"}"#,
        "\u{0}\u{1b}[31m\nPublicIP",
    ]
    .map(str::to_owned)
    .to_vec();
    values.push("x".repeat(1 << 20));
    values.push(format!("\"{}\"", "x".repeat(1 << 20)));
    values
}

#[tokio::test(start_paused = true)]
async fn lease_overwritten_with_what_names_no_owner_is_written_again() {
    for policy in [EXIT, REACQUIRE] {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        let lease = create(&registry).await;
        let claim = claim();
        let operator = async {
            for value in ownerless() {
                tokio::time::sleep(HOUR / 10).await;
                registry.put(KEY, &value);
                tokio::time::sleep(Duration::from_secs(10)).await;
                assert_eq!(owner(&registry).await, Some(OURS), "after {value:.40}");
            }
        };
        tokio::select! {
            lost = keep_lease(&registry, &lease, policy, &claim, |_| {}) => panic!("{lost}"),
            () = operator => {}
        }
        registry.advance(LEASE_TTL * 2);
        assert_eq!(owner(&registry).await, None, "it expires as before");
        let told = logs.lines_with("names no owner");
        assert_eq!(told.len(), ownerless().len(), "{told:?}");
        for line in told {
            assert!(line.len() < 400 && !line.contains(['\n', '\u{1b}', '\0']), "{line:?}");
            assert!(!line.contains("another node"), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rubbish_in_our_entry_ends_nothing_while_no_watch_tells_of_it() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
    for value in ["", "{}"] {
        registry.put(KEY, value);
        registry.fail_next(1, Fault::NotAnswered);
        for _ in 0..3 {
            assert_eq!(renewer.renew().await, Ok(()));
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert_eq!(owner(&registry).await, Some(OURS), "after {value:?}");
    }
    let written = revision(&registry).await;
    assert_eq!(Some(Ok(renewer.lease.entry.revision)), written);
}

#[tokio::test(start_paused = true)]
async fn rubbish_found_by_a_node_that_started_without_its_registry_is_written_over() {
    for value in ["", "{}", "[]"] {
        let registry = MemoryRegistry::new();
        let mut lease = create(&registry).await;
        lease.entry.revision = Revision::UNKNOWN;
        registry.put(KEY, value);
        registry.fail_next(3, Fault::NotAsked);
        let claim = claim();
        tokio::select! {
            lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => panic!("{lost}"),
            () = pass(&registry, Duration::from_secs(600)) => {}
        }
        assert_eq!(owner(&registry).await, Some(OURS), "after {value:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_rubbish_is_answered_once_a_second_at_most() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let before = listed(&registry).await.revision.0;
    let num_puts = 1000;
    let vandal = async {
        for _ in 0..num_puts {
            registry.put(KEY, "");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => panic!("{lost}"),
        () = vandal => {}
    }
    assert_eq!(owner(&registry).await, Some(OURS));
    let num_answers = listed(&registry).await.revision.0 - before - num_puts;
    assert!((20..=120).contains(&num_answers), "{num_answers} in 100 s");
}

#[tokio::test(start_paused = true)]
async fn ownerless_entry_that_overlaps_our_deleted_lease_is_no_new_owner() {
    for value in ["{}", "rubbish", r#"{"PublicIP":"0.0.0.0"}"#] {
        let registry = MemoryRegistry::new();
        let lease = create(&registry).await;
        let claim = claim();
        let operator = async {
            tokio::time::sleep(HOUR).await;
            registry.put("10.1.0.0-23", value);
            registry.remove(KEY);
            tokio::time::sleep(HOUR).await;
        };
        tokio::select! {
            lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => panic!("{lost}"),
            () = operator => {}
        }
        assert_eq!(owner(&registry).await, Some(OURS), "beside {value}");
    }
}

/// What our lease says of us, beyond what stock's would.
fn marked() -> LeaseAttrs {
    let mark = serde_json::json!({"AnySourcePort": true});
    LeaseAttrs::udp(OURS).with_data(Some(mark))
}

async fn attrs(registry: &MemoryRegistry) -> Option<LeaseAttrs> {
    listed(registry).await.leases().next().map(|lease| lease.attrs.clone())
}

#[tokio::test(start_paused = true)]
async fn entry_in_our_name_that_says_something_else_of_us_is_corrected() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let mut lease = create(&registry).await;
    lease.attrs = marked();
    let Ok(Write::Done(lease)) = registry.renew(&lease, &marked()).await else { panic!() };
    let claim = claim();
    let others = async {
        for value in [
            r#"{"PublicIP":"192.0.2.1"}"#,
            r#"{"PublicIP":"192.0.2.1","BackendData":{"AnySourcePort":false}}"#,
            r#"{"publicip":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            r#"{"PublicIP":"::ffff:192.0.2.1"}"#,
        ] {
            registry.put(KEY, value);
            tokio::time::sleep(Duration::from_secs(15)).await;
            assert_eq!(attrs(&registry).await, Some(marked()), "after {value}");
            let is_reservation = listed(&registry).await.leases().all(Stored::is_reservation);
            assert!(is_reservation, "the operator made it one");
        }
        // Stock, with our public IP, which binds it to an expiry again.
        let found = listed(&registry).await.leases().next().unwrap().clone();
        assert!(registry.delete(&found).await.unwrap());
        tokio::time::sleep(Duration::from_secs(15)).await;
        let found = listed(&registry).await.leases().next().unwrap().clone();
        let stock = LeaseAttrs::udp(OURS);
        assert!(matches!(registry.renew(&found, &stock).await, Ok(Write::Done(_))));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(attrs(&registry).await, Some(marked()), "after stock");
        assert!(!listed(&registry).await.leases().all(Stored::is_reservation));
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => panic!("{lost}"),
        () = others => {}
    }
    assert!(logs.count("says something else of us") > 0);
}

#[tokio::test(start_paused = true)]
async fn attributes_that_changed_between_two_lives_reach_a_reservation_too() {
    let registry = MemoryRegistry::new();
    registry.put(KEY, &LeaseAttrs::udp(OURS).to_json());
    let mut lease = listed(&registry).await.leases().next().unwrap().clone();
    (lease.attrs, lease.entry.revision) = (marked(), Revision::UNKNOWN);
    let claim = claim();
    tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => panic!("{lost}"),
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
    }
    assert_eq!(attrs(&registry).await, Some(marked()));
    assert!(listed(&registry).await.leases().all(Stored::is_reservation));
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_one_public_ip_do_not_correct_each_other_for_ever() {
    let registry = MemoryRegistry::new();
    let first = create(&registry).await;
    let second = first.clone().map(|it| Lease { attrs: marked(), ..it });
    let (claim, other_claim) = (claim(), super::claim());
    let before = listed(&registry).await.revision.0;
    tokio::select! {
        lost = keep_lease(&registry, &first, EXIT, &claim, |_| {}) => panic!("{lost}"),
        lost = async {
            tokio::time::sleep(HOUR).await;
            registry.put(KEY, &marked().to_json());
            keep_lease(&registry, &second, EXIT, &other_claim, |_| {}).await
        } => panic!("{lost}"),
        () = tokio::time::sleep(HOUR * 13) => {}
    }
    let num_writes = listed(&registry).await.revision.0 - before;
    assert!(num_writes < 12 * 12 + 12 * 2 * 20, "{num_writes} writes in 12 hours");
    assert_eq!(attrs(&registry).await.map(|attrs| attrs.public_ip()), Some(OURS));
}

#[tokio::test]
async fn rubbish_in_a_real_etcd_is_written_over_with_the_same_etcd_lease() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let claim = claim();
    let mut client = server.client().await;
    let key = format!("/renew/subnets/{KEY}");
    let operator = async {
        for value in ["", "[]", "{}", r#"{"PublicIP":""}"#] {
            client.put(key.clone(), value, None).await.unwrap();
            until_owned(&registry).await;
        }
        let ids = client.leases().await.unwrap();
        let ids: Vec<i64> = ids.leases().iter().map(|lease| lease.id()).collect();
        assert_eq!(ids, [lease.entry.ttl_lease.unwrap().0.get()]);
        let found = client.get(key.clone(), None).await.unwrap();
        assert_eq!(found.kvs()[0].lease(), ids[0]);
    };
    tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => panic!("{lost}"),
        () = operator => {}
    }
}
