//! What every registry promises, as tests that run against each.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::control::subnet::lease::print_key;

/// A registry with its operator's hands.
pub(crate) trait Rig {
    type Registry: Registry;

    fn registry(&self) -> &Self::Registry;
    async fn set_config(&self, text: &str);
    /// Writes an entry without an expiry.
    async fn put(&self, key: &str, value: &str);
    async fn remove(&self, key: &str);
    /// Lets the expiry of `lease` strike.
    async fn expire(&self, lease: &Stored<Lease>);
    async fn compact(&self);
}

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Runs every promise in turn, each on subnets of its own.
pub(crate) async fn check(rig: &impl Rig) {
    config_is_none_until_it_is_written(rig).await;
    identity_is_that_of_every_listing_and_stays(rig).await;
    created_lease_is_listed_and_stands_for_a_day(rig).await;
    second_create_is_refused_and_shows_the_first(rig).await;
    renewal_keeps_the_expiry_and_moves_the_revision(rig).await;
    stale_renewal_and_deletion_are_refused(rig).await;
    reservation_stays_without_an_expiry(rig).await;
    malformed_entry_is_one_error_in_the_listing(rig).await;
    malformed_entry_is_written_over_while_it_is_as_seen(rig).await;
    released_expiry_takes_nothing_along(rig).await;
    announced_lease_is_told_once_more_and_expires_as_before(rig).await;
    watch_delivers_each_write_once_and_in_order(rig).await;
    expiry_arrives_as_a_deletion(rig).await;
    watch_of_a_key_sees_nothing_else(rig).await;
    compacted_history_is_gone_and_the_last_revision_is_not(rig).await;
    watch_from_a_revision_that_never_was_needs_a_new_list(rig).await;
}

async fn config_is_none_until_it_is_written(rig: &impl Rig) {
    assert_eq!(rig.registry().config().await, Ok(None));
    rig.set_config("{}").await;
    assert_eq!(rig.registry().config().await, Ok(Some("{}".to_owned())));
}

async fn identity_is_that_of_every_listing_and_stays(rig: &impl Rig) {
    let store = rig.registry().identity().await.unwrap();
    assert!(store.to_string().contains(' '), "{store} says what kind of store it is");
    rig.put("rubbish", "{}").await;
    rig.remove("rubbish").await;
    for scope in [Scope::All, Scope::Key("10.1.1.0-24".to_owned())] {
        assert_eq!(rig.registry().list(&scope).await.unwrap().store, store);
    }
    let watch = rig.registry().watch(&Scope::All, Revision(1)).await.unwrap();
    assert_eq!(*watch.store(), store);
    assert_eq!(rig.registry().identity().await, Ok(store));
}

async fn created_lease_is_listed_and_stands_for_a_day(rig: &impl Rig) {
    let before = tokio::time::Instant::now();
    let lease = create(rig, "10.1.1.0/24", OURS).await;
    assert_eq!(lease.entry.key, "10.1.1.0-24");
    assert!(lease.entry.ttl_lease.is_some());
    let ttl = lease.expires.unwrap() - before;
    assert!((LEASE_TTL..LEASE_TTL + Duration::from_secs(60)).contains(&ttl), "{ttl:?}");
    assert_eq!(
        read(rig, &lease.entry.key).await,
        Some(Ok(lease.map(|it| Lease { expires: None, ..it })))
    );
}

async fn second_create_is_refused_and_shows_the_first(rig: &impl Rig) {
    let first = create(rig, "10.1.2.0/24", THEIRS).await;
    let second = rig.registry().create(first.subnet.into(), &LeaseAttrs::udp(OURS)).await;
    assert_eq!(second, Ok(Write::Refused(Some(Ok(first.map(|it| Lease { expires: None, ..it }))))));
}

async fn renewal_keeps_the_expiry_and_moves_the_revision(rig: &impl Rig) {
    let lease = create(rig, "10.1.3.0/24", OURS).await;
    let attrs = LeaseAttrs { backend_type: Some("udp".to_owned()), ..LeaseAttrs::udp(OURS) };
    let renewed = done(rig.registry().renew(&lease, &attrs).await);
    assert_eq!(renewed.entry.ttl_lease, lease.entry.ttl_lease);
    assert!(renewed.entry.revision > lease.entry.revision);
    assert!(renewed.expires >= lease.expires);
    assert_eq!(read(rig, "10.1.3.0-24").await.unwrap().unwrap().attrs, attrs);
}

async fn stale_renewal_and_deletion_are_refused(rig: &impl Rig) {
    let lease = create(rig, "10.1.4.0/24", OURS).await;
    rig.put(&lease.entry.key, &LeaseAttrs::udp(THEIRS).to_json()).await;
    let now = read(rig, &lease.entry.key).await;
    assert_eq!(rig.registry().renew(&lease, &lease.attrs).await, Ok(Write::Refused(now.clone())));
    assert_eq!(rig.registry().delete(&lease).await, Ok(false));
    assert_eq!(rig.registry().delete(&now.unwrap().unwrap()).await, Ok(true));
    assert_eq!(rig.registry().renew(&lease, &lease.attrs).await, Ok(Write::Refused(None)));
    assert_eq!(rig.registry().delete(&lease).await, Ok(false));
}

async fn reservation_stays_without_an_expiry(rig: &impl Rig) {
    rig.put("10.1.5.0-24", &LeaseAttrs::udp(OURS).to_json()).await;
    let reservation = read(rig, "10.1.5.0-24").await.unwrap().unwrap();
    assert!(reservation.is_reservation());
    let renewed = done(rig.registry().renew(&reservation, &reservation.attrs).await);
    assert!(renewed.is_reservation());
    assert_eq!(renewed.expires, None);
    assert!(read(rig, "10.1.5.0-24").await.unwrap().unwrap().is_reservation());
}

async fn malformed_entry_is_one_error_in_the_listing(rig: &impl Rig) {
    rig.put("rubbish", "{}").await;
    rig.put("10.1.6.0-24", "rubbish").await;
    let lease = create(rig, "10.1.7.0/24", OURS).await;
    let snapshot = rig.registry().list(&Scope::All).await.unwrap();
    let keys: Vec<&str> = snapshot.entries.iter().map(key_of).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let malformed: Vec<&str> =
        snapshot.entries.iter().filter(|entry| entry.is_err()).map(key_of).collect();
    assert_eq!(malformed, ["10.1.6.0-24", "rubbish"]);
    assert!(snapshot.leases().any(|listed| listed.subnet == lease.subnet));
    assert!(snapshot.taken().any(|taken| print_key(taken) == "10.1.6.0-24"));
    rig.remove("rubbish").await;
    rig.remove("10.1.6.0-24").await;
}

async fn malformed_entry_is_written_over_while_it_is_as_seen(rig: &impl Rig) {
    let lease = create(rig, "10.1.14.0/24", OURS).await;
    for value in ["\"\"", "[]", "null", "17", "{\"PublicIP\":null}"] {
        for ttl_lease in [lease.entry.ttl_lease, Some(TtlLease::UNKNOWN), None] {
            rig.put(&lease.entry.key, value).await;
            let Some(Err(malformed)) = read(rig, &lease.entry.key).await else { panic!() };
            let mut entry = Entry { key: malformed.key, revision: malformed.revision, ttl_lease };
            let seen = Stored { entry: entry.clone(), ..lease.clone() };
            entry.revision.0 -= 1;
            let stale = Stored { entry, ..lease.clone() };
            let refused = rig.registry().renew(&stale, &lease.attrs).await;
            assert!(matches!(refused, Ok(Write::Refused(Some(Err(_))))), "{refused:?}");
            let written = done(rig.registry().renew(&seen, &lease.attrs).await);
            assert_eq!(written.is_reservation(), ttl_lease.is_none());
            assert_ne!(written.entry.ttl_lease, Some(TtlLease::UNKNOWN));
            let now = written.map(|it| Lease { expires: None, ..it });
            assert_eq!(read(rig, &lease.entry.key).await, Some(Ok(now)));
        }
    }
    rig.remove(&lease.entry.key).await;
}

async fn announced_lease_is_told_once_more_and_expires_as_before(rig: &impl Rig) {
    let lease = create(rig, "10.1.16.0/24", OURS).await;
    rig.put("10.1.17.0-24", &LeaseAttrs::udp(OURS).to_json()).await;
    let reservation = read(rig, "10.1.17.0-24").await.unwrap().unwrap();
    for lease in [lease, reservation] {
        let scope = Scope::Key(lease.entry.key.clone());
        let mut watch = rig.registry().watch(&scope, lease.entry.revision).await.unwrap();
        let announced = done(rig.registry().announce(&lease).await);
        assert!(announced.entry.revision > lease.entry.revision);
        assert_eq!((announced.expires, &announced.attrs), (lease.expires, &lease.attrs));
        assert_eq!(announced.entry.ttl_lease, lease.entry.ttl_lease);
        let now = announced.map(|it| Lease { expires: None, ..it });
        assert_eq!(read(rig, &lease.entry.key).await, Some(Ok(now.clone())));
        assert_eq!(collect(&mut watch, 1).await.0, [Change::Put(Ok(now))]);
        rig.put(&lease.entry.key, &LeaseAttrs::udp(THEIRS).to_json()).await;
        let theirs = read(rig, &lease.entry.key).await;
        assert_eq!(rig.registry().announce(&lease).await, Ok(Write::Refused(theirs)));
        rig.remove(&lease.entry.key).await;
        assert_eq!(rig.registry().announce(&lease).await, Ok(Write::Refused(None)));
    }
}

async fn released_expiry_takes_nothing_along(rig: &impl Rig) {
    let lease = create(rig, "10.1.15.0/24", OURS).await;
    let ttl_lease = lease.entry.ttl_lease.unwrap();
    assert_eq!(rig.registry().release(ttl_lease).await, Ok(()));
    assert!(read(rig, &lease.entry.key).await.is_some(), "still bound to it");
    rig.remove(&lease.entry.key).await;
    for _ in 0..2 {
        assert_eq!(rig.registry().release(ttl_lease).await, Ok(()));
    }
}

async fn watch_delivers_each_write_once_and_in_order(rig: &impl Rig) {
    let start = rig.registry().list(&Scope::All).await.unwrap().revision;
    let created = create(rig, "10.1.8.0/24", OURS).await;
    let mut watch = rig.registry().watch(&Scope::All, start).await.unwrap();
    let renewed = done(rig.registry().renew(&created, &created.attrs).await);
    rig.put("rubbish", "{}").await;
    rig.remove("rubbish").await;
    assert_eq!(rig.registry().delete(&renewed).await, Ok(true));
    let (changes, end) = collect(&mut watch, 5).await;
    let [
        Change::Put(Ok(first)),
        Change::Put(Ok(second)),
        Change::Put(Err(third)),
        Change::Delete { key: fourth, revision: removed },
        Change::Delete { key: fifth, revision: deleted },
    ] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!((&first.entry, &second.entry), (&created.entry, &renewed.entry));
    assert_eq!((third.key.as_str(), third.subnets()), ("rubbish", None));
    assert_eq!((fourth.as_str(), fifth.as_str()), ("rubbish", "10.1.8.0-24"));
    assert!(third.revision < *removed && removed < deleted && *deleted == end);

    let mut resumed = rig.registry().watch(&Scope::All, second.entry.revision).await.unwrap();
    assert_eq!(collect(&mut resumed, 3).await.0, changes[2..]);
}

async fn expiry_arrives_as_a_deletion(rig: &impl Rig) {
    let lease = create(rig, "10.1.9.0/24", OURS).await;
    let scope = Scope::Key(lease.entry.key.clone());
    let mut watch = rig.registry().watch(&scope, lease.entry.revision).await.unwrap();
    rig.expire(&lease).await;
    let (changes, revision) = collect(&mut watch, 1).await;
    assert_eq!(changes, [Change::Delete { key: lease.entry.key.clone(), revision }]);
    assert_eq!(rig.registry().renew(&lease, &lease.attrs).await, Ok(Write::Refused(None)));
    let again = create(rig, "10.1.9.0/24", OURS).await;
    assert_ne!(again.entry.ttl_lease, lease.entry.ttl_lease);
}

async fn watch_of_a_key_sees_nothing_else(rig: &impl Rig) {
    let start = rig.registry().list(&Scope::All).await.unwrap().revision;
    create(rig, "10.1.10.0/25", OURS).await;
    let wanted = create(rig, "10.1.10.0/24", OURS).await;
    let scope = Scope::Key(wanted.entry.key.clone());
    let mut watch = rig.registry().watch(&scope, start).await.unwrap();
    let (changes, _) = collect(&mut watch, 1).await;
    assert_eq!(changes, [Change::Put(Ok(wanted.map(|it| Lease { expires: None, ..it })))]);
}

async fn compacted_history_is_gone_and_the_last_revision_is_not(rig: &impl Rig) {
    let start = rig.registry().list(&Scope::All).await.unwrap().revision;
    create(rig, "10.1.11.0/24", OURS).await;
    create(rig, "10.1.12.0/24", OURS).await;
    rig.compact().await;
    let mut watch = rig.registry().watch(&Scope::All, start).await.unwrap();
    assert_eq!(deadline(watch.next()).await, Err(RegistryError::HistoryGone { after: start }));
    let snapshot = rig.registry().list(&Scope::All).await.unwrap();
    let mut watch = rig.registry().watch(&Scope::All, snapshot.revision).await.unwrap();
    create(rig, "10.1.13.0/24", OURS).await;
    assert_eq!(collect(&mut watch, 1).await.0.len(), 1);
}

async fn watch_from_a_revision_that_never_was_needs_a_new_list(rig: &impl Rig) {
    let after = Revision(1_000_000);
    let mut watch = rig.registry().watch(&Scope::All, after).await.unwrap();
    assert_eq!(deadline(watch.next()).await, Err(RegistryError::SetBack { after }));
}

async fn create(rig: &impl Rig, subnet: &str, public_ip: Ipv4Addr) -> Stored<Lease> {
    let subnet = subnet.parse().unwrap();
    done(rig.registry().create(subnet, &LeaseAttrs::udp(public_ip)).await)
}

fn done(write: Result<Write, RegistryError>) -> Stored<Lease> {
    match write {
        Ok(Write::Done(lease)) => lease,
        refused => panic!("{refused:?}"),
    }
}

async fn read(rig: &impl Rig, key: &str) -> Option<Read> {
    let scope = Scope::Key(key.to_owned());
    rig.registry().list(&scope).await.unwrap().entries.pop()
}

/// The next `num` changes, and the revision of the last batch.
async fn collect(watch: &mut impl LeaseWatch, num: usize) -> (Vec<Change>, Revision) {
    let mut changes = Vec::new();
    let mut revision = Revision::default();
    while changes.len() < num {
        let batch = deadline(watch.next()).await.unwrap();
        changes.extend(batch.changes);
        revision = batch.revision;
    }
    (changes, revision)
}

async fn deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("an answer in time")
}
