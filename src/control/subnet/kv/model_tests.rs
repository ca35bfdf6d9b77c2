//! Allocation and renewal as a model: many nodes, a registry in memory, and everything that goes
//! wrong between them, for weeks of simulated time.
//!
//! A seed stands for one history, the same each time: it is printed, and a failing one can be run
//! alone with `TWILL_MODEL_SEED=<seed>`.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use ipnetwork::Ipv4Network;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::acquire::acquire_lease;
use super::conflicts::ConflictTracker;
use super::registry::memory::{Fault, MemoryRegistry, MemoryWatch};
use super::registry::{
    Batch, Change, LeaseWatch, Registry, RegistryError, Revision, Scope, Snapshot, StoreId, Stored,
    TtlLease, Write,
};
use super::renew::{AnnounceCauses, KeepPolicy, keep_lease};
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::config::network::{NetworkConfig, parse};
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::rng;
use crate::routes::Prefix;

const NUM_SEEDS: u64 = 30;
const NUM_STEPS: usize = 200;
const NUM_NODES: u8 = 5;
/// As many subnets; the nodes and the strangers together never need more.
const NUM_SUBNETS: u8 = 7;
const MAX_STRANGERS: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

/// What may happen in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// Nodes and links fail. Nobody may ever see two live owners, not for an instant.
    Failures,
    /// The registry breaks its word, too: leases are deleted, its clock jumps. Once a node can
    /// hear of it, it must give way.
    BrokenWord,
}

#[test]
fn no_subnet_ever_has_two_live_owners() {
    run(Rules::Failures);
}

#[test]
fn registry_that_breaks_its_word_is_obeyed_within_minutes() {
    run(Rules::BrokenWord);
}

fn run(rules: Rules) {
    let only = std::env::var("TWILL_MODEL_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = only.map_or(0..NUM_SEEDS, |seed: u64| seed..seed + 1);
    let (num_seeds, mut num_writes) = (seeds.clone().count(), 0);
    for seed in seeds {
        println!("{rules:?}, seed {seed} …");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        rng::seed(seed);
        runtime.block_on(async {
            let mut world = World::new(seed, rules).await;
            for _ in 0..NUM_STEPS {
                world.step().await;
            }
            world.end_well().await;
            println!("{rules:?}, seed {seed}: {} writes", world.num_writes);
            num_writes += world.num_writes;
        });
    }
    assert!(num_writes > 10 * num_seeds, "nothing happened worth looking at: {num_writes} writes");
}

struct World {
    rules: Rules,
    rng: StdRng,
    registry: MemoryRegistry,
    /// Sees every write, and who owned what before.
    audit: MemoryWatch,
    owners: BTreeMap<String, Ipv4Addr>,
    num_writes: usize,
    nodes: Vec<Node>,
    start: Instant,
    log: Vec<String>,
}

/// A host with its daemon, or without it for the moment.
struct Node {
    public_ip: Ipv4Addr,
    link: Link,
    /// Its subnet.env.
    previous: Option<Ipv4Network>,
    suspended: Arc<Suspension>,
    /// The lease that it forwards for.
    held: Arc<Mutex<Option<Stored<Lease>>>>,
    task: Option<JoinHandle<()>>,
}

impl World {
    async fn new(seed: u64, rules: Rules) -> Self {
        let registry = MemoryRegistry::new();
        let audit = registry.watch(&Scope::All, Revision(1)).await.unwrap();
        let nodes = (1..=NUM_NODES).map(|i| Node {
            public_ip: Ipv4Addr::new(192, 0, 2, i),
            link: Link::new(registry.clone()),
            // Some remember the same subnet.
            previous: Ipv4Network::containing(Ipv4Addr::new(10, 1, 1 + i % 3, 0), 24).ok(),
            suspended: Arc::default(),
            held: Arc::default(),
            task: None,
        });
        let nodes = nodes.collect();
        let rng = StdRng::seed_from_u64(seed);
        let (owners, start) = (BTreeMap::new(), Instant::now());
        Self { rules, rng, registry, audit, owners, num_writes: 0, nodes, start, log: Vec::new() }
    }

    async fn step(&mut self) {
        let i = self.rng.random_range(0..self.nodes.len());
        let action =
            self.rng.random_range(0..if self.rules == Rules::BrokenWord { 13 } else { 10 });
        self.log.push(format!("{:?}: action {action} on node {}", self.start.elapsed(), i + 1));
        match action {
            0..=1 if self.nodes[i].task.is_none() => self.start(i),
            0 => self.nodes[i].kill(),
            1 => (0..self.nodes.len()).for_each(|i| self.start(i)),
            2 => self.nodes[i].suspended.set(true),
            3 => self.nodes[i].suspended.set(false),
            4 => self.nodes[i].link.set_down(true),
            5 => self.nodes[i].link.set_down(false),
            6 => self.registry.fail_next(self.rng.random_range(1..20), Fault::NotAsked),
            7 => self.registry.fail_next(self.rng.random_range(1..6), Fault::NotAnswered),
            8 => self.registry.end_watches(),
            9 => self.stranger().await,
            10 => self.delete_one(),
            11 => self.registry.advance(MINUTE * self.rng.random_range(1..2000)),
            _ => {
                self.check();
                self.registry.compact();
            }
        }
        // Mostly moments, so that things happen at once; now and then long enough to expire.
        let minutes = match self.rng.random_range(0..100) {
            0..76 => 0,
            76..88 => 1,
            88..92 => 20,
            92..94 => 200,
            _ => 1500,
        };
        if minutes >= 200 {
            // A day of retries shows nothing that an hour of them does not.
            self.nodes.iter().filter(|n| n.link.is_down()).for_each(|n| n.suspended.set(true));
        }
        let moment = Duration::from_millis(self.rng.random_range(0..3000));
        self.pass(moment + MINUTE * minutes).await;
    }

    /// Lets time pass, here and in the registry, which is never ahead.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let step = MINUTE.min(end - Instant::now());
            tokio::time::sleep(step).await;
            self.check();
            self.registry.advance(step);
            self.check();
        }
        settle().await;
        self.check();
    }

    /// A node with another flanneld comes or goes.
    async fn stranger(&mut self) {
        let strange = |lease: &&Stored<Lease>| lease.attrs.public_ip().octets()[0] == 198;
        let Ok(snapshot) = self.registry.list(&Scope::All).await else { return };
        let strangers: Vec<&Stored<Lease>> = snapshot.leases().filter(strange).collect();
        let key = format!("10.1.{}.0-24", self.rng.random_range(1..=NUM_SUBNETS));
        let is_free = snapshot.leases().all(|lease| lease.entry.key != key);
        if let Some(leaving) = strangers.choose(&mut self.rng).filter(|_| !is_free) {
            self.registry.remove(&leaving.entry.key);
        } else if is_free && strangers.len() < MAX_STRANGERS {
            let public_ip = Ipv4Addr::new(198, 51, 100, self.rng.random());
            let stranger = LeaseAttrs::udp(public_ip);
            // No time has passed since the listing was made but that of its answer.
            let created = self.registry.create(key.replace('-', "/").parse().unwrap(), &stranger);
            drop(created.await);
        }
    }

    fn delete_one(&mut self) {
        let keys: Vec<String> = self.owners.keys().cloned().collect();
        if let Some(key) = keys.choose(&mut self.rng) {
            self.registry.remove(key);
        }
    }

    fn start(&mut self, i: usize) {
        let on_loss = match self.rng.random() {
            true => OnLeaseLoss::Reacquire,
            false => OnLeaseLoss::Exit,
        };
        self.nodes[i].start(on_loss);
    }

    /// Everything that must hold at any moment.
    fn check(&mut self) {
        while let Some(batch) = self.audit.next().now_or_never() {
            match batch {
                Ok(batch) => batch.changes.into_iter().for_each(|change| self.audit_one(change)),
                Err(RegistryError::WatchEnded { .. } | RegistryError::Call { .. }) => {
                    let position = self.audit.position();
                    self.audit = self.registry.watch_now(&Scope::All, position);
                }
                Err(
                    error @ (RegistryError::HistoryGone { .. } | RegistryError::SetBack { .. }),
                ) => panic!("{error}"),
            }
        }
        if self.rules == Rules::Failures {
            self.no_two_live_owners();
        }
    }

    /// A node's entry changes hands by deletion or expiry only.
    fn audit_one(&mut self, change: Change) {
        self.num_writes += 1;
        match change {
            Change::Put(Ok(Stored { entry, value: Lease { attrs, .. } })) => {
                let before = self.owners.insert(entry.key.clone(), attrs.public_ip());
                let is_kept = before.is_none_or(|before| before == attrs.public_ip());
                assert!(
                    is_kept,
                    "{} of {before:?} overwritten by {attrs}: {}",
                    entry.key,
                    self.tale()
                );
            }
            Change::Put(Err(malformed)) => panic!("{malformed}"),
            Change::Delete { key, .. } => drop(self.owners.remove(&key)),
            Change::Cleared { .. } | Change::Foreign => panic!("not in memory"),
        }
    }

    fn no_two_live_owners(&self) {
        let mut live: BTreeMap<Ipv4Network, Ipv4Addr> = BTreeMap::new();
        for node in &self.nodes {
            let Some(lease) = node.held() else { continue };
            if lease.expires.is_some_and(|expires| expires <= Instant::now()) {
                continue;
            }
            let other = live.insert(lease.subnet, node.public_ip);
            assert_eq!(other, None, "{} and {other:?}: {}", node.public_ip, self.tale());
        }
    }

    /// All is mended: soon every node has a lease, a different one each, that the registry knows.
    async fn end_well(&mut self) {
        for i in 0..self.nodes.len() {
            self.start(i);
            self.nodes[i].suspended.set(false);
            self.nodes[i].link.set_down(false);
        }
        self.registry.heal();
        self.pass(MINUTE * 20).await;
        self.no_two_live_owners();
        for node in &self.nodes {
            let lease = node.held().unwrap_or_else(|| panic!("{} has none", node.public_ip));
            let owner = self.owners.get(&lease.entry.key);
            assert_eq!(owner, Some(&node.public_ip), "{}: {}", lease.subnet, self.tale());
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    fn tale(&self) -> String {
        let held = self.nodes.iter().map(|node| format!("{} {:?}", node.public_ip, node.held()));
        format!("{}\n{}", self.log.join("\n"), held.collect::<Vec<_>>().join("\n"))
    }
}

/// Gives every task that can go on the time to do so.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

impl Node {
    fn start(&mut self, on_loss: OnLeaseLoss) {
        if self.task.is_some() {
            return;
        }
        let (link, held) = (self.link.clone(), Arc::clone(&self.held));
        let (public_ip, previous) = (self.public_ip, self.previous);
        let suspended = Arc::clone(&self.suspended);
        self.task = Some(tokio::spawn(async move {
            let mut life = pin!(live(link, public_ip, previous, on_loss, held));
            poll_fn(|cx| {
                if suspended.until_it_ends(cx.waker()) {
                    return Poll::Pending;
                }
                life.as_mut().poll(cx)
            })
            .await;
        }));
    }

    /// Its previous subnet stays, as subnet.env does.
    fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.previous = self.held.lock().unwrap().take().map_or(self.previous, |l| Some(l.subnet));
    }

    fn held(&self) -> Option<Stored<Lease>> {
        self.held.lock().unwrap().clone()
    }
}

/// The daemon, and its restarts.
async fn live(
    link: Link,
    public_ip: Ipv4Addr,
    mut previous: Option<Ipv4Network>,
    on_loss: OnLeaseLoss,
    held: Arc<Mutex<Option<Stored<Lease>>>>,
) {
    let config = config();
    let policy = KeepPolicy { margin: Duration::from_secs(3600), on_loss };
    loop {
        let attrs = LeaseAttrs::udp(public_ip);
        if let Ok(acquired) = acquire_lease(&link, &config, &attrs, previous.map(Into::into)).await
        {
            let lease = acquired.lease;
            previous = Some(lease.subnet);
            *held.lock().unwrap() = Some(lease.clone());
            let claim = ConflictTracker::new(lease.subnet.into(), public_ip);
            let hold = |lease: &Stored<Lease>| *held.lock().unwrap() = Some(lease.clone());
            let (_, causes) = watch::channel(AnnounceCauses::default());
            keep_lease(&link, &lease, policy, &claim, causes, hold).await;
            *held.lock().unwrap() = None;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn config() -> NetworkConfig {
    let text = format!(r#"{{"Network":"10.1.0.0/16","SubnetMax":"10.1.{NUM_SUBNETS}.0"}}"#);
    parse(&text, None).unwrap()
}

/// A process that is stopped, as by SIGSTOP or with the lid of the laptop.
#[derive(Default)]
struct Suspension {
    is_on: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Suspension {
    fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
        if let Some(waker) = self.waiting.lock().unwrap().take() {
            waker.wake();
        }
    }

    fn until_it_ends(&self, waker: &Waker) -> bool {
        *self.waiting.lock().unwrap() = Some(waker.clone());
        self.is_on.load(Ordering::Relaxed)
    }
}

/// One node's way to the registry.
#[derive(Clone)]
struct Link {
    registry: MemoryRegistry,
    is_down: Arc<AtomicBool>,
    changed: Arc<Notify>,
}

struct LinkWatch {
    watch: MemoryWatch,
    link: Link,
}

impl Link {
    fn new(registry: MemoryRegistry) -> Self {
        Self { registry, is_down: Arc::default(), changed: Arc::default() }
    }

    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// A call, which the link may lose on its way there or back.
    async fn carry<T>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let lost = || RegistryError::Call { operation: "carry", reason: "link is down".to_owned() };
        if self.is_down() {
            return Err(lost());
        }
        let answer = call.await;
        if self.is_down() { Err(lost()) } else { answer }
    }
}

impl Registry for Link {
    type Watch = LinkWatch;

    fn config_name(&self) -> String {
        self.registry.config_name()
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        self.carry(self.registry.config()).await
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        self.carry(self.registry.identity()).await
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        self.carry(self.registry.list(scope)).await
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<LinkWatch, RegistryError> {
        let watch = self.carry(self.registry.watch(scope, after)).await?;
        Ok(LinkWatch { watch, link: self.clone() })
    }

    async fn create(
        &self,
        subnets: crate::control::config::network::Subnets,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        self.carry(self.registry.create(subnets, attrs)).await
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        self.carry(self.registry.renew(lease, attrs)).await
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        self.carry(self.registry.announce(lease)).await
    }

    async fn release(&self, ttl_lease: TtlLease) -> Result<(), RegistryError> {
        self.carry(self.registry.release(ttl_lease)).await
    }

    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        self.carry(self.registry.delete(lease)).await
    }
}

impl LeaseWatch for LinkWatch {
    fn store(&self) -> &StoreId {
        self.watch.store()
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        loop {
            let Link { changed, .. } = self.link.clone();
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            if self.link.is_down() {
                return Err(RegistryError::WatchEnded { reason: "link is down".to_owned() });
            }
            tokio::select! {
                biased;
                batch = self.watch.next() => return batch,
                () = changed => {}
            }
        }
    }
}
