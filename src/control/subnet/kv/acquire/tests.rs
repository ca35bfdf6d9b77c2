use std::collections::BTreeSet;

use super::*;
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::config::etcd::EtcdConfig;
use crate::control::config::network::parse;
use crate::control::subnet::kv::conflicts::ConflictTracker;
use crate::control::subnet::kv::registry::etcd3::EtcdRegistry;
use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::subnet::kv::renew::{AnnounceCauses, KeepPolicy, keep_lease};
use crate::control::util::test_log::Logs;

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

#[tokio::test(start_paused = true)]
async fn lease_with_our_public_ip_is_reused_the_first_in_key_order() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    create(&registry, "10.1.7.0/24", OURS).await;
    create(&registry, "10.1.50.0/24", OURS).await;
    let lease = acquire(&registry, Some("10.1.3.0/24")).await.unwrap();
    // "10.1.50.0-24" sorts before "10.1.7.0-24".
    assert_eq!(lease.subnet, subnet("10.1.50.0/24"));
    let line = "Found lease (ip: 10.1.50.0/24 ipv6: ::/0) for current IP (192.0.2.1), reusing";
    assert_eq!(logs.count(line), 1);
}

#[tokio::test(start_paused = true)]
async fn of_several_leases_with_our_public_ip_the_one_that_names_us_is_reused() {
    let _logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let ours = HostId::named("a/1").sign(attrs(OURS));
    create(&registry, "10.1.1.0/24", OURS).await;
    let named = registry.create(subnet("10.1.7.0/24").into(), &ours).await;
    assert!(matches!(named, Ok(Write::Done(_))));
    create(&registry, "10.1.9.0/24", OURS).await;
    for (previous, expected) in [(None, "10.1.7.0/24"), (Some("10.1.9.0/24"), "10.1.9.0/24")] {
        let previous = previous.map(subnet);
        let got =
            acquire_lease(&registry, &config(), &ours, previous.map(Into::into)).await.unwrap();
        assert_eq!(got.lease.subnet, subnet(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_leases_with_our_public_ip_that_of_the_previous_subnet_is_reused() {
    let (stray, stray2) = ("10.1.1.0/24", "10.1.80.0/24");
    for (previous, expected) in [
        ("10.1.7.0/24", "10.1.7.0/24"),
        ("10.1.80.0/24", "10.1.80.0/24"),
        ("10.1.9.0/24", "10.1.1.0/24"),
        ("10.9.1.0/24", "10.1.1.0/24"),
    ] {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        create(&registry, "10.0.1.0/24", OURS).await;
        for text in [stray, "10.1.7.0/24", stray2] {
            create(&registry, text, OURS).await;
        }
        create(&registry, "10.9.1.0/24", OURS).await;
        let before = listed(&registry).await;
        let lease = acquire(&registry, Some(previous)).await.unwrap();
        assert_eq!(lease.subnet, subnet(expected), "{previous}");
        assert_eq!(listed(&registry).await, before, "the others stay");
        assert_eq!(logs.count("takes 10.1."), 1);
        let warning = logs.lines_with("of several leases for current IP (192.0.2.1)").remove(0);
        for other in before.iter().filter(|line| !line.starts_with(expected)) {
            let key = other.replace('/', "-").replace(" 192.0.2.1", "");
            assert!(warning.contains(&key), "{key}: {warning}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lease_of_another_host_is_left_to_it_if_that_is_alive() {
    for is_alive in [true, false] {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        let [first, second] = ["a/1", "b/2"].map(|name| HostId::named(name).sign(attrs(OURS)));
        let config = config();
        let start = Instant::now();
        let had = acquire_lease(&registry, &config, &first, None).await.unwrap().lease;
        assert!(start.elapsed() < Duration::from_secs(1), "nobody to wait for");
        let claim = ConflictTracker::new(had.subnet.into(), OURS);
        let policy =
            KeepPolicy { margin: Duration::from_secs(3600), on_loss: OnLeaseLoss::Reacquire };
        let keep = async {
            match is_alive {
                true => {
                    let (_, causes) = tokio::sync::watch::channel(AnnounceCauses::default());
                    let lost = keep_lease(&registry, &had, policy, &claim, causes, |_| {}).await;
                    panic!("{lost}")
                }
                false => std::future::pending().await,
            }
        };
        let act = async {
            let subnet = Some(had.subnet);
            let got =
                acquire_lease(&registry, &config, &second, subnet.map(Into::into)).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
            got
        };
        let got = tokio::select! {
            never = keep => never,
            got = act => got,
        };
        assert_eq!(got.lease.subnet == had.subnet, !is_alive);
        assert_eq!(got.rival, is_alive.then(|| HostId::named("a/1")));
        let kept = registry.list(&Scope::Key(had.entry.key)).await.unwrap();
        let owner = kept.leases().next().and_then(|lease| HostId::read(&lease.attrs));
        assert_eq!(owner, Some(HostId::named(if is_alive { "a/1" } else { "b/2" })));
        let told = "is that of host a/1, which is alive: this node takes another subnet";
        assert_eq!(logs.count(told), usize::from(is_alive));
        let conflict = claim.conflicts().pop().and_then(|conflict| conflict.other_host);
        assert_eq!(conflict, is_alive.then(|| HostId::named("b/2")), "the first sees the second");

        // Neither waits for the other when it starts once more.
        let again = Instant::now();
        let next = acquire_lease(&registry, &config, &second, None).await.unwrap();
        assert_eq!(next.lease.subnet, got.lease.subnet);
        assert!(again.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn lease_that_names_no_host_is_taken_up_at_once_and_so_it_is_by_a_node_that_names_none() {
    let signed = HostId::named("a/1").sign(attrs(OURS));
    for (had, starts) in [(attrs(OURS), signed.clone()), (signed, attrs(OURS))] {
        let registry = MemoryRegistry::new();
        let lease = acquire_lease(&registry, &config(), &had, None).await.unwrap().lease;
        let start = Instant::now();
        let got = acquire_lease(&registry, &config(), &starts, None).await.unwrap();
        assert_eq!((got.lease.subnet, got.rival), (lease.subnet, None));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn reservation_is_reused_and_stays_one() {
    let registry = MemoryRegistry::new();
    registry.put("10.1.7.0-24", r#"{"PublicIP":"192.0.2.1"}"#);
    let lease = acquire(&registry, None).await.unwrap();
    assert!(lease.is_reservation());
    registry.advance(Duration::from_secs(1_000_000));
    assert_eq!(listed(&registry).await, ["10.1.7.0/24 192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn lease_of_ours_outside_the_config_is_deleted_and_replaced() {
    let registry = MemoryRegistry::new();
    create(&registry, "10.9.1.0/24", OURS).await;
    create(&registry, "10.1.1.0/25", OURS).await;
    registry.put("10.1.4.0-24&fd00::-56", r#"{"PublicIP":"192.0.2.1"}"#);
    let lease = acquire(&registry, Some("10.1.3.0/24")).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.1.3.0/24"));
    assert_eq!(listed(&registry).await, ["10.1.3.0/24 192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn previous_subnet_is_taken_when_free_and_valid_only() {
    for (previous, taken, expected) in [
        ("10.1.9.0/24", "10.1.8.0/24", true),
        ("10.1.9.0/24", "10.1.9.0/24", false),
        ("10.1.9.0/24", "10.1.8.0/23", false),
        ("10.2.9.0/24", "10.1.8.0/24", false),
        ("10.1.9.0/25", "10.1.8.0/24", false),
    ] {
        let registry = MemoryRegistry::new();
        create(&registry, taken, THEIRS).await;
        let lease = acquire(&registry, Some(previous)).await.unwrap();
        assert_eq!(lease.subnet == subnet(previous), expected, "{previous} beside {taken}");
        assert!(config().v4.accepts(lease.subnet));
        assert!(!lease.subnet.overlaps(subnet(taken)));
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_entry_still_takes_its_subnet() {
    let registry = MemoryRegistry::new();
    let narrow = parse(r#"{"Network":"10.1.0.0/16","SubnetMax":"10.1.2.0"}"#, None).unwrap();
    registry.put("10.1.1.0-24", "rubbish");
    registry.put("rubbish", "rubbish");
    let Acquired { lease, .. } =
        acquire_lease(&registry, &narrow, &attrs(OURS), None).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.1.2.0/24"));
}

#[tokio::test(start_paused = true)]
async fn previous_subnet_whose_entry_names_no_owner_is_taken_back() {
    let big = "x".repeat(1 << 20);
    for value in
        ["", "[]", "null", "17", "{}", "{", r#"{"PublicIP":""}"#, r#"{"PublicIP":null}"#, &big]
    {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        registry.put("10.1.9.0-24", value);
        // A second lease with our public IP does not count for more.
        create(&registry, "10.1.7.0/24", OURS).await;
        let lease = acquire(&registry, Some("10.1.9.0/24")).await.unwrap();
        assert_eq!(lease.subnet, subnet("10.1.9.0/24"), "{value:.20}");
        assert!(!lease.is_reservation() && lease.expires.is_some());
        assert!(listed(&registry).await.contains(&"10.1.9.0/24 192.0.2.1".to_owned()));
        let told = logs.lines_with("names no owner");
        assert!(told.len() == 1 && told[0].len() < 400, "{told:?}");
        assert_eq!(logs.count("another node"), 0);
        assert_eq!(logs.count("Found previously leased subnet (10.1.9.0/24), reusing"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_keeps_us_from_our_previous_subnet_is_named() {
    for (taken, value, reason) in [
        ("10.1.9.0-24", r#"{"PublicIP":"192.0.2.2"}"#, "taken by 192.0.2.2"),
        ("10.1.8.0-23", r#"{"PublicIP":"192.0.2.2"}"#, "taken by 192.0.2.2"),
        ("10.1.8.0-23", "", "taken by entry 10.1.8.0-23, which names no owner"),
        ("10.1.8.0-23", "{}", "taken by entry 10.1.8.0-23, which names no owner"),
    ] {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        registry.put("10.1.9.0-24", "");
        registry.put(taken, value);
        let lease = acquire(&registry, Some("10.1.9.0/24")).await.unwrap();
        assert_ne!(lease.subnet, subnet("10.1.9.0/24"));
        let line = format!("Found previously leased subnet (10.1.9.0/24) {reason}, ignoring");
        assert_eq!(logs.count(&line), 1, "{reason}");
    }
}

#[tokio::test]
async fn previous_subnet_is_taken_back_in_a_real_etcd_for_a_day() {
    let server = EtcdServer::start().await;
    let config = EtcdConfig {
        endpoints: vec![server.url.clone()],
        prefix: "/back".to_owned(),
        ..EtcdConfig::default()
    };
    let registry = EtcdRegistry::patient(&config).await;
    let mut client = server.client().await;
    client.put("/back/subnets/10.1.9.0-24", "[]", None).await.unwrap();
    let previous = Some(subnet("10.1.9.0/24"));
    let acquired =
        acquire_lease(&registry, &self::config(), &attrs(OURS), previous.map(Into::into))
            .await
            .unwrap();
    assert_eq!(acquired.lease.subnet, subnet("10.1.9.0/24"));
    let ids = client.leases().await.unwrap();
    assert_eq!(ids.leases().len(), 1);
    let ttl = client.lease_time_to_live(ids.leases()[0].id(), None).await.unwrap().ttl();
    assert!(ttl > 86_000, "{ttl}");
}

#[tokio::test(start_paused = true)]
async fn being_out_of_subnets_is_the_one_error() {
    let registry = MemoryRegistry::new();
    let narrow = parse(r#"{"Network":"10.1.0.0/16","SubnetMax":"10.1.1.0"}"#, None).unwrap();
    create(&registry, "10.1.1.0/24", THEIRS).await;
    let error = acquire_lease(&registry, &narrow, &attrs(OURS), None).await.unwrap_err();
    assert!(error.to_string().starts_with("out of subnets: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn failing_registry_is_asked_again_and_complained_about_once_a_minute() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    registry.fail_next(20, Fault::NotAsked);
    acquire(&registry, None).await.unwrap();
    let minutes = 2; // 20 tries, up to 5 s apart
    assert!((1..=minutes).contains(&logs.count("acquire lease: list leases: not asked")));
}

#[tokio::test(start_paused = true)]
async fn standing_lease_is_enough_while_the_registry_refuses_writes() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    create(&registry, "10.1.7.0/24", OURS).await;
    registry.advance(Duration::from_secs(20 * 3600));
    registry.refuse_writes(true);
    let before = Instant::now();
    let lease = acquire(&registry, None).await.unwrap();
    assert_eq!((lease.subnet, lease.entry.revision), (subnet("10.1.7.0/24"), Revision::UNKNOWN));
    assert_eq!(lease.expires, Some(before + Duration::from_secs(4 * 3600)));
    assert_eq!(logs.count("renew lease: writes are refused; starting with lease 10.1.7.0/24"), 1);

    // It is kept like any other, as soon as that is possible.
    let claim = ConflictTracker::new(lease.subnet.into(), OURS);
    let policy = KeepPolicy { margin: Duration::from_secs(3600), on_loss: OnLeaseLoss::Reacquire };
    let (sender, mut held) = tokio::sync::mpsc::unbounded_channel();
    let (_, causes) = tokio::sync::watch::channel(AnnounceCauses::default());
    let keep = keep_lease(&registry, &lease, policy, &claim, causes, |lease| {
        drop(sender.send(lease.clone()));
    });
    let act = async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(logs.count("renew lease: writes are refused; trying again") > 0);
        registry.refuse_writes(false);
        while held.recv().await.unwrap().expires < Some(before + LEASE_TTL) {}
        registry.advance(Duration::from_secs(23 * 3600));
        assert_eq!(listed(&registry).await, ["10.1.7.0/24 192.0.2.1"], "it was renewed");
        assert_eq!(claim.conflicts(), []);
    };
    tokio::select! {
        lost = keep => panic!("{lost}"),
        () = act => {}
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_a_registry_that_refuses_writes_is_waited_for() {
    let registry = MemoryRegistry::new();
    create(&registry, "10.1.7.0/24", THEIRS).await;
    registry.refuse_writes(true);
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, acquire(&registry, None)).await.is_err());
    registry.refuse_writes(false);
    assert!(acquire(&registry, None).await.is_ok());
}

#[tokio::test]
async fn standing_lease_is_enough_for_a_real_etcd_out_of_space() {
    let server = EtcdServer::start_small().await;
    let registry = EtcdRegistry::patient(&etcd(&server)).await;
    let first = acquire_lease(&registry, &config(), &attrs(OURS), None).await.unwrap().lease;
    server.fill().await;
    let lease = start_unwritten(&registry, "has no space left; ").await;
    assert_eq!(lease.subnet, first.subnet);
    let left = lease.expires.unwrap().saturating_duration_since(Instant::now());
    assert!(left > LEASE_TTL - Duration::from_secs(600) && left <= LEASE_TTL, "{left:?}");
}

#[tokio::test]
async fn standing_lease_is_enough_for_a_real_etcd_whose_role_lost_its_write_right() {
    let server = EtcdServer::start().await;
    let registry = EtcdRegistry::patient(&etcd(&server)).await;
    let first = acquire_lease(&registry, &config(), &attrs(OURS), None).await.unwrap().lease;
    let mut client = server.client().await;
    for (user, role) in [("root", "root"), ("node", "reader")] {
        client.user_add(user, "s3cret", None).await.unwrap();
        client.role_add(role).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let read_all = etcd_client::Permission::read("/").with_prefix();
    client.role_grant_permission("reader", read_all).await.unwrap();
    client.auth_enable().await.unwrap();
    let user = EtcdConfig {
        username: Some("node".to_owned()),
        password: Some("s3cret".to_owned()),
        ..etcd(&server)
    };
    let registry = EtcdRegistry::patient(&user).await;
    let lease = start_unwritten(&registry, "does not allow this to user").await;
    assert_eq!(lease.subnet, first.subnet);
}

/// Starts with the lease that is there, which `registry` refuses to renew for `reason`. A server that
/// takes too long to say so is asked again.
async fn start_unwritten(registry: &EtcdRegistry, reason: &str) -> Stored<Lease> {
    for _ in 0..30 {
        let logs = Logs::capture();
        let lease = acquire_lease(registry, &config(), &attrs(OURS), None).await.unwrap().lease;
        let lines = logs.lines_with("; starting with lease");
        assert_eq!(lines.len(), 1, "it was renewed: {:?}", logs.lines_with(""));
        if lines[0].contains(reason) {
            return lease;
        }
        assert!(lines[0].contains("renew lease: no answer within 2s; "), "{lines:?}");
    }
    panic!("thirty times no answer within two seconds");
}

fn etcd(server: &EtcdServer) -> EtcdConfig {
    EtcdConfig {
        endpoints: vec![server.url.clone()],
        prefix: "/race".to_owned(),
        ..EtcdConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn lost_answer_to_a_create_does_not_cost_a_second_subnet() {
    let registry = MemoryRegistry::new();
    let lost = [Fault::NotAsked, Fault::NotAnswered];
    for fault in lost.into_iter().cycle().take(7) {
        registry.fail_next(1, fault);
    }
    let lease = acquire(&registry, None).await.unwrap();
    assert_eq!(listed(&registry).await, [format!("{} 192.0.2.1", lease.subnet)]);
}

#[tokio::test(start_paused = true)]
async fn racing_nodes_get_a_subnet_each() {
    let registry = MemoryRegistry::new();
    race(&registry).await;
}

#[tokio::test]
async fn nodes_racing_for_a_real_etcd_get_a_subnet_each() {
    let server = EtcdServer::start().await;
    race(&EtcdRegistry::patient(&etcd(&server)).await).await;
    let num = server.client().await.leases().await.unwrap().leases().len();
    assert_eq!(num, usize::from(NUM_RACERS), "etcd leases of lost races are revoked");
}

const NUM_RACERS: u8 = 60;

/// Every subnet is wanted: as many nodes as there are, all of which had the same one before.
async fn race<R: Registry>(registry: &R) {
    let text = format!(r#"{{"Network":"10.1.0.0/16","SubnetMax":"10.1.{NUM_RACERS}.0"}}"#);
    let config = parse(&text, None).unwrap();
    let nodes =
        (1..=NUM_RACERS).map(|i| {
            let (config, attrs) = (&config, attrs(Ipv4Addr::new(192, 0, 2, i)));
            async move {
                acquire_lease(registry, config, &attrs, Some(subnet("10.1.5.0/24").into())).await
            }
        });
    let leases = futures_util::future::join_all(nodes);
    let leases = tokio::time::timeout(Duration::from_secs(300), leases).await.unwrap();
    let subnets: BTreeSet<Ipv4Network> =
        leases.into_iter().map(|lease| lease.unwrap().lease.subnet).collect();
    assert_eq!(subnets.len(), usize::from(NUM_RACERS));
}

fn subnet(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn attrs(public_ip: Ipv4Addr) -> LeaseAttrs {
    LeaseAttrs::udp(public_ip)
}

fn config() -> NetworkConfig {
    parse(r#"{"Network":"10.1.0.0/16"}"#, None).unwrap()
}

async fn acquire(
    registry: &MemoryRegistry,
    previous: Option<&str>,
) -> Result<Stored<Lease>, AcquireError> {
    let previous = previous.map(|text| subnet(text).into());
    let acquired = acquire_lease(registry, &config(), &attrs(OURS), previous).await?;
    Ok(acquired.lease)
}

async fn create(registry: &MemoryRegistry, text: &str, owner: Ipv4Addr) {
    let write = registry.create(subnet(text).into(), &attrs(owner)).await;
    assert!(matches!(write, Ok(Write::Done(_))), "{write:?}");
}

async fn listed(registry: &MemoryRegistry) -> Vec<String> {
    let snapshot = registry.list(&Scope::All).await.unwrap();
    snapshot.leases().map(|lease| format!("{} {}", lease.subnet, lease.attrs)).collect()
}
