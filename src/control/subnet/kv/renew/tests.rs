use std::net::Ipv4Addr;
use std::pin::pin;

use ipnetwork::Ipv4Network;
use tokio::sync::watch;

use super::*;
use crate::control::config::etcd::EtcdConfig;
use crate::control::config::network::parse;
use crate::control::subnet::kv::acquire::acquire_lease;
use crate::control::subnet::kv::config_wait::wait_for_config;
use crate::control::subnet::kv::list_watch::{InitialLeases, Update, follow_leases};
use crate::control::subnet::kv::registry::etcd3::EtcdRegistry;
use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::subnet::kv::registry::{LEASE_TTL, Malformed, Snapshot, TtlLease, Write};
use crate::control::subnet::lease::LeaseAttrs;
use crate::control::util::test_log::Logs;

mod announce;
mod cut_off;
mod overwritten;
mod ttl_leases;

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const KEY: &str = "10.1.1.0-24";
const MARGIN: Duration = Duration::from_secs(60 * 60);
const EXIT: KeepPolicy = KeepPolicy { margin: MARGIN, on_loss: OnLeaseLoss::Exit };
const REACQUIRE: KeepPolicy = KeepPolicy { margin: MARGIN, on_loss: OnLeaseLoss::Reacquire };
const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test(start_paused = true)]
async fn lease_is_renewed_an_hour_before_it_expires_and_lives_for_days() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let keep = keep_lease(&registry, &lease, EXIT, &claim, |_| {});
    let lost = tokio::select! {
        lost = keep => Some(lost),
        () = pass(&registry, HOUR * 24 * 10) => None,
    };
    assert_eq!(lost, None);
    assert_eq!(owner(&registry).await, Some(OURS));
    assert_eq!(logs.count("Lease renewed, new expiration: "), 10, "every 23 hours");
    assert_eq!(logs.count("Waiting for 23h0m0s to renew lease"), 11);
}

#[tokio::test(start_paused = true)]
async fn deleted_lease_is_lost_at_once() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let operator = async {
        tokio::time::sleep(HOUR).await;
        registry.remove(KEY);
    };
    let lost = lost_after(&registry, &lease, operator, HOUR).await;
    assert_eq!(lost.to_string(), "lease 10.1.1.0/24 of 192.0.2.1 was deleted before it expired");
    assert_eq!(owner(&registry).await, None, "and not written again");
}

#[tokio::test(start_paused = true)]
async fn lease_taken_over_is_lost_at_once_and_names_both_owners() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let thief = async { registry.put(KEY, &LeaseAttrs::udp(THEIRS).to_json()) };
    let lost = lost_after(&registry, &lease, thief, Duration::ZERO).await;
    assert_eq!(lost.to_string(), "lease 10.1.1.0/24 of 192.0.2.1 now belongs to 192.0.2.2");
    assert_eq!(owner(&registry).await, Some(THEIRS));
}

#[tokio::test(start_paused = true)]
async fn loss_is_noticed_by_the_renewal_when_no_watch_can_tell() {
    for thief in [Some(THEIRS), None] {
        let registry = MemoryRegistry::new();
        let lease = create(&registry).await;
        registry.remove(KEY);
        if let Some(thief) = thief {
            registry.put(KEY, &LeaseAttrs::udp(thief).to_json());
        }
        let claim = claim();
        let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
        assert!(renewer.renew().await.is_err());
        assert_eq!(owner(&registry).await, thief);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_renewals_go_on_for_as_long_as_the_lease_stands() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
    tokio::time::advance(HOUR * 23).await;
    registry.fail_next(100, Fault::NotAsked); // each is followed by a question
    let expires = renewer.lease.expires.unwrap();
    while renewer.lease.expires == Some(expires) && Instant::now() < expires {
        until(renewer.renew_at).await;
        assert_eq!(renewer.renew().await, Ok(()));
    }
    let num = logs.count("renew lease: not asked; trying again, the lease holds for another ");
    assert!((20..50).contains(&num), "at most once a minute: {num}");
    assert_eq!(logs.count("Lease renewed"), 1);
}

#[tokio::test(start_paused = true)]
async fn renewal_whose_answer_was_lost_is_our_own_write() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
    registry.fail_next(1, Fault::NotAnswered);
    for _ in 0..3 {
        assert_eq!(renewer.renew().await, Ok(()));
    }
    assert_eq!(Some(Ok(renewer.lease.entry.revision)), revision(&registry).await);
}

#[tokio::test(start_paused = true)]
async fn lease_that_expired_during_an_outage_is_created_anew_if_free() {
    for (thief, expected) in [(None, Ok(())), (Some(THEIRS), Err(THEIRS))] {
        let registry = MemoryRegistry::new();
        let lease = create(&registry).await;
        let claim = claim();
        let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
        tokio::time::advance(LEASE_TTL).await;
        registry.advance(LEASE_TTL);
        if let Some(thief) = thief {
            registry.put(KEY, &LeaseAttrs::udp(thief).to_json());
        }
        let result = renewer.renew().await;
        let new_owner = result.map_err(|lost| match lost {
            LeaseLost::TakenOver { new_owner, .. } => new_owner,
            LeaseLost::Deleted { .. } | LeaseLost::Renumbered { .. } => panic!("{lost}"),
        });
        assert_eq!(new_owner, expected);
        assert_eq!(owner(&registry).await, Some(thief.unwrap_or(OURS)));
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_seen_by_the_watch_creates_the_lease_anew() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let lost = tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => Some(lost),
        () = async {
            tokio::time::sleep(HOUR).await; // the watch stands
            registry.fail_next(100_000, Fault::NotAsked);
            tokio::time::sleep(LEASE_TTL - HOUR).await;
            registry.advance(LEASE_TTL);
            registry.heal();
            while owner(&registry).await.is_none() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } => None,
    };
    assert_eq!(lost, None);
    assert_eq!(owner(&registry).await, Some(OURS));
}

#[tokio::test(start_paused = true)]
async fn registry_that_lost_everything_is_no_loss_to_end_for() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let empty = registry.backup();
    let lease = create(&registry).await;
    let claim = claim();
    let lost = tokio::select! {
        lost = keep_lease(&registry, &lease, EXIT, &claim, |_| {}) => Some(lost),
        () = async {
            tokio::time::sleep(HOUR).await;
            registry.restore(&empty);
            // Its first writes fail.
            tokio::time::sleep(Duration::from_millis(10)).await;
            registry.fail_next(1, Fault::NotAsked);
            while owner(&registry).await.is_none() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } => None,
    };
    assert_eq!(lost, None);
    assert_eq!(owner(&registry).await, Some(OURS));
    assert_eq!(logs.count("was lost by the registry and was created again"), 1);
}

#[tokio::test(start_paused = true)]
async fn sleep_of_the_machine_counts() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease, EXIT, &claim, |_| {});
    tokio::time::advance(HOUR * 22).await;
    assert!(renewer.renew_at > Some(Instant::now()));
    registry.advance(HOUR * 22 + MARGIN);
    renewer.count_sleep(MARGIN);
    assert!(renewer.renew_at <= Some(Instant::now()), "time to renew");
    assert_eq!(renewer.renew().await, Ok(()));
    assert_eq!(renewer.lease.expires, Some(Instant::now() + LEASE_TTL));

    // Longer than the lease stands: it expired, nobody deleted it.
    registry.advance(LEASE_TTL * 2);
    renewer.count_sleep(LEASE_TTL * 2);
    assert_eq!(owner(&registry).await, None);
    assert_eq!(renewer.observe(Update::Snapshot(listed(&registry).await)).await, Ok(()));
    assert_eq!(owner(&registry).await, Some(OURS));
}

#[tokio::test(start_paused = true)]
async fn lease_made_a_reservation_needs_no_renewal_but_is_watched() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let operator = async {
        registry.put(KEY, &LeaseAttrs::udp(OURS).to_json());
        pass(&registry, LEASE_TTL * 3).await;
        assert_eq!(owner(&registry).await, Some(OURS));
        assert_eq!(logs.count("Lease renewed"), 0);
        registry.remove(KEY);
    };
    let lost = lost_after(&registry, &lease, operator, LEASE_TTL * 3).await;
    assert!(matches!(lost, LeaseLost::Deleted { .. }), "{lost}");
}

#[tokio::test]
async fn real_etcd_keeps_the_same_etcd_lease_and_tells_of_the_loss() {
    let server = EtcdServer::start().await;
    let registry = real(&server).await;
    let lease = create(&registry).await;
    let claim = claim();
    let mut renewer = LeaseRenewer::new(&registry, lease.clone(), EXIT, &claim, |_| {});
    assert_eq!(renewer.renew().await, Ok(()));
    assert_eq!(renewer.lease.entry.ttl_lease, lease.entry.ttl_lease);
    let mut client = server.client().await;
    assert_eq!(client.leases().await.unwrap().leases().len(), 1);

    let value = LeaseAttrs::udp(THEIRS).to_json();
    let thief = async {
        client.put(format!("/renew/subnets/{KEY}"), value, None).await.unwrap();
    };
    let lost = lost_after(&registry, &renewer.lease, thief, Duration::ZERO).await;
    assert!(matches!(lost, LeaseLost::TakenOver { new_owner: THEIRS, .. }), "{lost}");
}

#[test]
fn all_of_it_can_run_on_any_thread() {
    fn assert_send(_: impl Send) {}
    let registry = MemoryRegistry::new();
    let config = parse(r#"{"Network":"10.1.0.0/16"}"#, None).unwrap();
    let attrs = LeaseAttrs::udp(OURS);
    assert_send(wait_for_config(&registry, None));
    assert_send(acquire_lease(&registry, &config, &attrs, None));
    let claim = claim();
    let known = InitialLeases::Cached(Vec::new());
    assert_send(follow_leases(&registry, &claim, known, watch::Sender::new(true), drop));
    assert_send(async {
        let lease = create(&registry).await;
        keep_lease(&registry, &lease, EXIT, &claim, |_| {}).await
    });
}

#[tokio::test(start_paused = true)]
async fn deleted_lease_is_created_anew_if_free_and_if_so_asked() {
    let overlapping = ("10.1.0.0-23", THEIRS);
    let wrong_key = (KEY, THEIRS);
    for thief in [None, Some(wrong_key), Some(overlapping)] {
        let logs = Logs::capture();
        let registry = MemoryRegistry::new();
        let lease = create(&registry).await;
        let claim = claim();
        let mut held = Vec::new();
        let keep =
            keep_lease(&registry, &lease, REACQUIRE, &claim, |lease| held.push(lease.clone()));
        let operator = async {
            tokio::time::sleep(HOUR).await;
            registry.fail_next(9, Fault::NotAsked);
            if let Some((key, thief)) = thief {
                registry.put(key, &LeaseAttrs::udp(thief).to_json());
            }
            if thief != Some(wrong_key) {
                registry.remove(KEY);
            }
            tokio::time::sleep(HOUR).await;
        };
        let lost = tokio::select! {
            lost = keep => Some(lost),
            () = operator => None,
        };
        let expected = thief.map(|_| "lease 10.1.1.0/24 of 192.0.2.1 now belongs to 192.0.2.2");
        assert_eq!(lost.map(|lost| lost.to_string()).as_deref(), expected);
        let is_ours_again = usize::from(thief.is_none());
        assert_eq!(
            (held.len(), owner(&registry).await == Some(OURS)),
            (is_ours_again, thief.is_none())
        );
        assert_eq!(logs.count("was deleted by somebody and was created again"), is_ours_again);
    }
}

#[tokio::test(start_paused = true)]
async fn other_node_with_our_public_ip_is_noticed_and_nothing_is_overwritten() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    let config = parse(r#"{"Network":"10.1.0.0/16"}"#, None).unwrap();
    let lease = create(&registry).await;
    let claim = claim();
    let keep = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {});
    let other = async {
        tokio::time::sleep(HOUR).await;
        assert_eq!(claim.conflicts(), []);
        acquire_lease(&registry, &config, &LeaseAttrs::udp(OURS), None).await.unwrap();
        let expiry = async || listed(&registry).await.leases().next().unwrap().entry.ttl_lease;
        let written = expiry().await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(expiry().await, written);
        assert_eq!(claim.conflicts().len(), 1);
        // It leaves; our next renewal still finds its trace, the one after that none.
        pass(&registry, HOUR * 24).await;
        assert_eq!(claim.conflicts().len(), 1);
        pass(&registry, HOUR * 23).await;
        assert_eq!(claim.conflicts(), []);
    };
    tokio::select! {
        lost = keep => panic!("{lost}"),
        () = other => {}
    }
    let line = "conflict: our lease 10.1.1.0/24 of 192.0.2.1 is also written by another node";
    assert_eq!(logs.count(line), 1);
}

#[tokio::test(start_paused = true)]
async fn renewals_whose_answers_are_lost_are_no_conflict() {
    let registry = MemoryRegistry::new();
    let lease = create(&registry).await;
    let claim = claim();
    let keep = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {});
    let outages = async {
        for _ in 0..5 {
            registry.end_watches();
            registry.fail_next(7, Fault::NotAnswered);
            pass(&registry, HOUR * 23).await;
        }
    };
    tokio::select! {
        lost = keep => panic!("{lost}"),
        () = outages => {}
    }
    assert_eq!(claim.conflicts(), []);
}

#[tokio::test(start_paused = true)]
async fn lease_of_an_earlier_life_is_looked_for_before_anything_is_written() {
    for (found, expected) in [(Some(OURS), None), (None, None), (Some(THEIRS), Some(THEIRS))] {
        let registry = MemoryRegistry::new();
        let mut lease = create(&registry).await;
        lease.entry.revision = Revision::UNKNOWN;
        if found != Some(OURS) {
            registry.remove(KEY);
        }
        if found == Some(THEIRS) {
            registry.put(KEY, &LeaseAttrs::udp(THEIRS).to_json());
        }
        registry.fail_next(30, Fault::NotAsked);
        let claim = claim();
        let lost = tokio::select! {
            lost = keep_lease(&registry, &lease, REACQUIRE, &claim, |_| {}) => Some(lost),
            () = tokio::time::sleep(HOUR) => None,
        };
        let new_owner = lost.map(|lost| match lost {
            LeaseLost::TakenOver { new_owner, .. } => new_owner,
            LeaseLost::Deleted { .. } | LeaseLost::Renumbered { .. } => panic!("{lost}"),
        });
        assert_eq!((new_owner, claim.conflicts().len()), (expected, 0));
        assert_eq!(owner(&registry).await, Some(expected.unwrap_or(OURS)));
    }
}

/// What becomes of `lease` once `somebody` has acted; to be noticed within a minute of that.
async fn lost_after<R: Registry>(
    registry: &R,
    lease: &Stored<Lease>,
    somebody: impl Future<Output = ()>,
    acts_for: Duration,
) -> LeaseLost {
    let claim = claim();
    let keep = keep_lease(registry, lease, EXIT, &claim, |_| {});
    let keep = tokio::time::timeout(acts_for + Duration::from_secs(60), keep);
    let (lost, ()) = tokio::join!(keep, somebody);
    lost.expect("the loss is noticed in time")
}

/// Keeps a lease that nothing but the time gives a cause to announce.
async fn keep_lease<R: Registry>(
    registry: &R,
    lease: &Stored<Lease>,
    policy: KeepPolicy,
    claim: &ConflictTracker,
    sink: impl FnMut(&Stored<Lease>),
) -> LeaseLost {
    let (_, causes) = watch::channel(AnnounceCauses::default());
    super::keep_lease(registry, lease, policy, claim, causes, sink).await
}

fn claim() -> ConflictTracker {
    ConflictTracker::new("10.1.1.0/24".parse().unwrap(), OURS)
}

/// Lets time pass, here and in the registry.
async fn pass(registry: &MemoryRegistry, time: Duration) {
    let step = Duration::from_secs(60);
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(step).await;
        registry.advance(step);
    }
}

async fn create<R: Registry>(registry: &R) -> Stored<Lease> {
    let subnet = "10.1.1.0/24".parse().unwrap();
    match registry.create(subnet, &LeaseAttrs::udp(OURS)).await {
        Ok(Write::Done(lease)) => lease,
        refused => panic!("{refused:?}"),
    }
}

/// Who holds the subnet; asks for as long as the registry fails.
async fn owner(registry: &MemoryRegistry) -> Option<Ipv4Addr> {
    let snapshot = loop {
        match registry.list(&Scope::Key(KEY.to_owned())).await {
            Ok(snapshot) => break snapshot,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    snapshot.leases().next().map(|lease| lease.attrs.public_ip())
}

/// A registry in `server`.
async fn real(server: &EtcdServer) -> EtcdRegistry {
    let config = EtcdConfig {
        endpoints: vec![server.url.clone()],
        prefix: "/renew".to_owned(),
        ..EtcdConfig::default()
    };
    EtcdRegistry::patient(&config).await
}

/// Waits until our entry in a real registry is ours.
async fn until_owned(registry: &EtcdRegistry) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let snapshot = registry.list(&Scope::Key(KEY.to_owned())).await.unwrap();
        if snapshot.leases().any(|lease| lease.attrs.public_ip() == OURS) {
            return;
        }
        assert!(Instant::now() < deadline, "{KEY} is not ours: {snapshot:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn listed(registry: &MemoryRegistry) -> Snapshot {
    registry.list(&Scope::Key(KEY.to_owned())).await.unwrap()
}

async fn revision(registry: &MemoryRegistry) -> Option<Result<Revision, Malformed>> {
    let snapshot = registry.list(&Scope::Key(KEY.to_owned())).await.unwrap();
    snapshot.entries.into_iter().next().map(|read| read.map(|lease| lease.entry.revision))
}
