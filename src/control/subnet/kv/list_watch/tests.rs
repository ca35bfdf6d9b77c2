mod history;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;
use crate::control::config::etcd::EtcdConfig;
use crate::control::subnet::kv::registry::etcd3::EtcdRegistry;
use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::subnet::kv::registry::{
    Change, Entry, Revision, Snapshot, StoreId, Stored, Write,
};
use crate::control::subnet::lease::{Lease, LeaseAttrs, print_key};
use crate::control::util::test_log::Logs;

#[tokio::test(start_paused = true)]
async fn first_call_carries_everything_be_it_nothing() {
    let registry = Arc::new(MemoryRegistry::new());
    let mut empty = Followed::new(Arc::clone(&registry));
    empty.expect(&["|"]).await;
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let mut full = Followed::new(registry);
    full.expect(&["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_already_is_handed_over_at_once_and_nothing_after_it_is_missed() {
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let listed = registry.list(&Scope::All).await.unwrap();
    registry.remove("10.1.1.0-24");
    create(&*registry, 3).await;
    registry.fail_next(3, Fault::NotAsked);
    let mut followed = Followed::knowing(InitialLeases::Listed(listed), registry);
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    tokio::task::yield_now().await;
    assert_eq!(*followed.handed.lock().unwrap(), expected, "without a question to the registry");
    expected.extend(["+10.1.3.0/24 192.0.2.3", "-10.1.1.0/24"]);
    followed.expect(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn changes_arrive_in_order_and_renewals_are_none() {
    let logs = Logs::capture();
    let registry = Arc::new(MemoryRegistry::new());
    let mut followed = Followed::new(Arc::clone(&registry));
    followed.expect(&["|"]).await;
    let lease = create(&*registry, 1).await;
    assert!(matches!(registry.renew(&lease, &lease.attrs).await, Ok(Write::Done(_))));
    registry.put("10.1.1.0-24", r#"{"PublicIP":"192.0.2.9"}"#);
    registry.remove("10.1.1.0-24");
    create(&*registry, 1).await;
    let (added, moved) = ("+10.1.1.0/24 192.0.2.1", "+10.1.1.0/24 192.0.2.9");
    followed.expect(&["|", added, moved, "-10.1.1.0/24", added]).await;
    assert_eq!(logs.count("Subnet added: 10.1.1.0/24"), 3);
    assert_eq!(logs.count("Subnet removed: 10.1.1.0/24"), 1);
}

#[tokio::test(start_paused = true)]
async fn large_batch_is_one_line_in_the_log() {
    let logs = Logs::capture();
    let registry = Arc::new(MemoryRegistry::new());
    let mut handed = vec!["|".to_owned()];
    for number in 100..=200 {
        let lease = create(&*registry, number).await;
        handed.push(text(&LeaseEvent::Added(lease)));
    }
    let handed: Vec<&str> = handed.iter().map(String::as_str).collect();
    Followed::new(registry).expect(&handed).await;
    assert_eq!(logs.count("Subnets added: 101, removed: 0"), 1);
    assert_eq!(logs.count("Subnet added:"), 0);
}

#[tokio::test(start_paused = true)]
async fn own_subnet_is_never_an_event() {
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 0).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    followed.expect(&["|"]).await;
    registry.remove("10.1.0.0-24");
    create(&*registry, 0).await;
    registry.compact();
    registry.end_watches();
    create(&*registry, 1).await;
    followed.expect(&["|", "+10.1.1.0/24 192.0.2.1"]).await;
}

#[tokio::test(start_paused = true)]
async fn poison_removes_nobody_and_is_complained_about_once() {
    let logs = Logs::capture();
    let registry = Arc::new(MemoryRegistry::new());
    create(&*registry, 1).await;
    registry.put("poison", "{}");
    let mut followed = Followed::new(Arc::clone(&registry));
    followed.expect(&["|", "+10.1.1.0/24 192.0.2.1"]).await;
    registry.put("10.1.1.0-24", "poison");
    registry.put("10.1.2.0-24", r#"{"PublicIP":null}"#);
    create(&*registry, 3).await;
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.3.0/24 192.0.2.3"];
    followed.expect(&expected).await;
    registry.end_watches();
    create(&*registry, 4).await;
    registry.compact(); // so all of it is listed once more
    expected.push("+10.1.4.0/24 192.0.2.4");
    followed.expect(&expected).await;
    registry.remove("poison");
    registry.remove("10.1.1.0-24");
    expected.push("-10.1.1.0/24");
    followed.expect(&expected).await;
    for line in [
        "skipped entry poison: the key does not end in a subnet",
        "skipped entry 10.1.1.0-24: the value is not a JSON object",
        "skipped entry 10.1.2.0-24: PublicIP: null is not an IPv4 address",
    ] {
        assert_eq!(logs.count(line), 1, "{line}");
    }
    assert_eq!(*followed.num_malformed.lock().unwrap(), 1, "10.1.2.0-24 is left");
}

#[tokio::test(start_paused = true)]
async fn what_happened_during_an_outage_is_caught_up_with_or_without_history() {
    for compacted in [false, true] {
        let registry = Arc::new(MemoryRegistry::new());
        for i in [1, 2, 3] {
            create(&*registry, i).await;
        }
        let mut followed = Followed::new(Arc::clone(&registry));
        let all =
            ["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2", "+10.1.3.0/24 192.0.2.3"];
        followed.expect(&all).await;
        tokio::time::sleep(Duration::from_secs(1)).await; // by now it watches
        registry.end_watches();
        registry.remove("10.1.1.0-24");
        registry.put("10.1.2.0-24", r#"{"PublicIP":"192.0.2.9"}"#);
        create(&*registry, 4).await;
        registry.fail_next(5, Fault::NotAsked);
        if compacted {
            registry.compact();
        }
        // Nobody reported that 10.1.1.0/24 was deleted, so it has half a minute to come back.
        let missed = ["+10.1.2.0/24 192.0.2.9", "+10.1.4.0/24 192.0.2.4", "-10.1.1.0/24"];
        followed.expect(&[&all[..], &missed].concat()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_keys_of_one_subnet_are_one_route_until_both_are_gone() {
    let registry = Arc::new(MemoryRegistry::new());
    let mut followed = Followed::new(Arc::clone(&registry));
    followed.expect(&["|"]).await;
    registry.put("10.1.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#);
    registry.put("10.1.1.0-24&fd00::-56", r#"{"PublicIP":"192.0.2.2"}"#);
    registry.remove("10.1.1.0-24&fd00::-56");
    registry.remove("10.1.1.0-24");
    let (first, second) = ("+10.1.1.0/24 192.0.2.1", "+10.1.1.0/24 192.0.2.2");
    followed.expect(&["|", first, second, first, "-10.1.1.0/24"]).await;
}

#[tokio::test(start_paused = true)]
async fn failing_registry_is_asked_at_a_bearable_rate_and_complained_about_once_a_minute() {
    let logs = Logs::capture();
    let registry = MemoryRegistry::new();
    registry.fail_next(1000, Fault::NotAsked);
    let mut feed = ListWatch::new(&registry, Scope::All);
    let minutes = Duration::from_secs(600);
    assert!(tokio::time::timeout(minutes, feed.next()).await.is_err(), "at most 2 tries in 5 s");
    assert!((9..=11).contains(&logs.count("list leases: not asked; trying again")));
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_registry_is_told_once_and_so_is_its_end() {
    let registry = MemoryRegistry::new();
    let in_touch = watch::Sender::new(true);
    let mut touch = in_touch.subscribe();
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        while touch.changed().await.is_ok() {
            told.push(*touch.borrow_and_update());
        }
        told
    });
    let mut feed = ListWatch::new(&registry, Scope::All).telling(in_touch);
    registry.fail_next(3, Fault::NotAsked);
    feed.next().await;
    create(&registry, 1).await;
    feed.next().await;
    registry.end_watches();
    create(&registry, 2).await;
    feed.next().await;
    drop(feed);
    assert_eq!(told.await.unwrap(), [false, true, false, true]);
}

#[tokio::test]
async fn etcd_killed_restarted_and_compacted_meanwhile_costs_no_event() {
    let mut server = EtcdServer::start().await;
    let registry = Arc::new(registry(&server).await);
    create(&*registry, 1).await;
    create(&*registry, 2).await;
    let mut followed = Followed::new(Arc::clone(&registry));
    let mut expected = vec!["|", "+10.1.1.0/24 192.0.2.1", "+10.1.2.0/24 192.0.2.2"];
    followed.expect(&expected).await;

    server.kill();
    server.restart().await;
    let mut client = server.client().await;
    client.delete("/watch/subnets/10.1.1.0-24", None).await.unwrap();
    expected.push("-10.1.1.0/24");
    followed.expect(&expected).await;

    server.kill();
    server.restart().await;
    let put = client.put("/watch/subnets/10.1.3.0-24", r#"{"PublicIP":"192.0.2.3"}"#, None).await;
    let now = put.unwrap().header().unwrap().revision();
    client.compact(now, None).await.unwrap();
    expected.push("+10.1.3.0/24 192.0.2.3");
    followed.expect(&expected).await;

    // Another etcd altogether, whose revisions begin again.
    server.kill();
    server.restart_empty().await;
    create(&*registry, 5).await;
    expected.push("+10.1.5.0/24 192.0.2.5");
    followed.expect(&expected).await;
    create(&*registry, 2).await; // the node of it is quick enough, that of 10.1.3.0/24 is not
    expected.push("-10.1.3.0/24");
    followed.expect(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn leases_that_no_listing_has_stand_until_they_are_written_again_or_given_up() {
    let own = ConflictTracker::new("10.1.0.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 0));
    let mut table = LeaseCache::new(&own, Vec::new());
    let entries = |of: &[u8]| of.iter().map(|i| Ok(lease(*i))).collect();
    let store = StoreId("test".to_owned());
    let snapshot =
        |of: &[u8]| Snapshot { store: store.clone(), revision: Revision(9), entries: entries(of) };
    let texts =
        |events: Vec<LeaseEvent<Stored<Lease>>>| events.iter().map(text).collect::<Vec<_>>();
    assert_eq!(table.replace(snapshot(&[1, 2, 3, 4])).1, 0);
    let (events, num_doubted) = table.replace(snapshot(&[4, 5]));
    assert_eq!((texts(events), num_doubted), (vec!["+10.1.5.0/24 192.0.2.5".to_owned()], 3));
    assert_eq!(texts(table.apply(vec![Change::Put(Ok(lease(2)))])), [""; 0]);
    tokio::time::advance(RESET_GRACE / 2).await;
    // One more to doubt; the others are not given more time by that.
    assert_eq!(table.replace(snapshot(&[2, 5])), (Vec::new(), 1));
    let delete = Change::Delete { key: "10.1.1.0-24".to_owned(), revision: Revision(12) };
    assert_eq!(texts(table.apply(vec![delete])), ["-10.1.1.0/24"]);
    assert_eq!(texts(table.give_up()), [""; 0]);
    tokio::time::advance(RESET_GRACE / 2).await;
    assert_eq!(texts(table.give_up()), ["-10.1.3.0/24"]);
    tokio::time::advance(RESET_GRACE / 2).await;
    assert_eq!(texts(table.give_up()), ["-10.1.4.0/24"]);
    assert_eq!(table.num_doubted(), 0);
}

#[tokio::test(start_paused = true)]
async fn deletion_of_every_entry_at_once_removes_all_peers_in_doubt_or_not() {
    let own = ConflictTracker::new("10.1.0.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 0));
    let mut table = LeaseCache::new(&own, Vec::new());
    let store = StoreId("test".to_owned());
    for of in [&[1, 2, 3][..], &[2, 3]] {
        let entries = of.iter().map(|i| Ok(lease(*i))).collect();
        table.replace(Snapshot { store: store.clone(), revision: Revision(9), entries });
    }
    assert_eq!(table.num_doubted(), 1);
    let changes = vec![Change::Cleared { revision: Revision(12) }, Change::Put(Ok(lease(2)))];
    let texts: Vec<String> = table.apply(changes).iter().map(text).collect();
    let removed = ["-10.1.1.0/24", "-10.1.2.0/24", "-10.1.3.0/24"];
    assert_eq!(texts, [&removed[..], &["+10.1.2.0/24 192.0.2.2"]].concat());
    assert_eq!((table.num_known(), table.num_doubted()), (1, 0));
}

#[tokio::test]
async fn etcd_watch_that_is_compacted_away_lists_anew() {
    let server = EtcdServer::start().await;
    let registry = registry(&server).await;
    let first = create(&registry, 1).await;
    let mut client = server.client().await;
    client.delete("/watch/subnets/10.1.1.0-24", None).await.unwrap();
    create(&registry, 2).await;
    let last = create(&registry, 3).await;
    client.compact(last.entry.revision.0, None).await.unwrap();
    let mut feed = ListWatch::after(&registry, Scope::All, first.entry.revision);
    let update = tokio::time::timeout(Duration::from_secs(120), feed.next()).await.unwrap();
    let Update::Relisted(snapshot, _) = update else { panic!("{update:?}") };
    assert_eq!(snapshot.entries.len(), 2);
    assert_eq!(snapshot.revision, last.entry.revision);
}

/// A follower in the background, and what it has been handed: `|` for the first call, then one
/// text per event.
struct Followed {
    handed: Arc<Mutex<Vec<String>>>,
    num_malformed: Arc<Mutex<usize>>,
    stale: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Followed {
    fn new<R: Registry + 'static>(registry: Arc<R>) -> Self {
        Self::knowing(InitialLeases::Cached(Vec::new()), registry)
    }

    fn knowing<R: Registry + 'static>(known: InitialLeases, registry: Arc<R>) -> Self {
        let handed = Arc::new(Mutex::new(Vec::new()));
        let num_malformed = Arc::new(Mutex::new(0));
        let stale = Arc::new(Mutex::new(None));
        let (sink, malformed) = (Arc::clone(&handed), Arc::clone(&num_malformed));
        let in_doubt = Arc::clone(&stale);
        let task = tokio::spawn(async move {
            let own =
                ConflictTracker::new("10.1.0.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 0));
            follow_leases(&*registry, &own, known, watch::Sender::new(true), move |update| {
                let mut handed = sink.lock().unwrap();
                let mut num_malformed = malformed.lock().unwrap();
                if handed.is_empty() {
                    handed.push("|".to_owned());
                } else {
                    let is_news = !update.events.is_empty()
                        || update.num_malformed != *num_malformed
                        || update.stale != *in_doubt.lock().unwrap();
                    assert!(is_news, "only the first call may be empty");
                }
                in_doubt.lock().unwrap().clone_from(&update.stale);
                *num_malformed = update.num_malformed;
                handed.extend(update.events.iter().map(text));
            })
            .await;
        });
        Self { handed, num_malformed, stale, task }
    }

    fn stale(&self) -> Option<String> {
        self.stale.lock().unwrap().clone()
    }

    /// Waits until as much has been handed over, and until it is exactly this.
    async fn expect(&mut self, expected: &[&str]) {
        let complete = async {
            while self.handed.lock().unwrap().len() < expected.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(120), complete).await.is_ok();
        assert_eq!(*self.handed.lock().unwrap(), expected, "in time: {in_time}");
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(event: &LeaseEvent<Stored<Lease>>) -> String {
    match event {
        LeaseEvent::Added(lease) => format!("+{} {}", lease.subnet, lease.attrs),
        LeaseEvent::Removed(subnet) => format!("-{subnet}"),
    }
}

/// The lease of `10.1.<i>.0/24`, as read.
fn lease(i: u8) -> Stored<Lease> {
    let subnet = format!("10.1.{i}.0/24").parse().unwrap();
    let attrs = LeaseAttrs::udp(Ipv4Addr::new(192, 0, 2, i));
    let entry = Entry { key: print_key(subnet), revision: Revision(9), ttl_lease: None };
    Stored { value: Lease { ipv6_subnet: None, subnet, attrs, expires: None }, entry }
}

async fn registry(server: &EtcdServer) -> EtcdRegistry {
    let config = EtcdConfig {
        endpoints: vec![server.url.clone()],
        prefix: "/watch".to_owned(),
        ..EtcdConfig::default()
    };
    EtcdRegistry::patient(&config).await
}

/// Leases `10.1.<i>.0/24` to `192.0.2.<i>`.
async fn create(registry: &impl Registry, i: u8) -> Stored<Lease> {
    let subnet = format!("10.1.{i}.0/24").parse().unwrap();
    let attrs = LeaseAttrs::udp(Ipv4Addr::new(192, 0, 2, i));
    match registry.create(subnet, &attrs).await {
        Ok(Write::Done(lease)) => lease,
        refused => panic!("{refused:?}"),
    }
}
