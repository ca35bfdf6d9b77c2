use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{oneshot, watch};

use ipnetwork::Ipv4Network;

use super::*;
use crate::control::backend::{BackendError, BackendStats, Plan, Prepared, Preparing, Starting};
use crate::control::conditions::Conditions;
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::config::network;
use crate::control::observe;
use crate::control::subnet::kv::manager::{KvManager, KvSettings};
use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
use crate::control::subnet::kv::registry::{Registry, Scope};
use crate::control::subnet::kv::renew::KeepPolicy;
use crate::control::subnet::kv::state_file::{PersistedLeases, StateFile};
use crate::control::subnet::lease::{LeaseAttrs, LeaseEvent};
use crate::control::util::test_log::Logs;
use crate::dataplane::EngineError;
use crate::dataplane::io::udp::UdpError;
use crate::dataplane::stats::peers::PeerCount;

const CONFIG: &str = r#"{"Network":"10.1.0.0/16"}"#;
const PEER: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;

#[tokio::test(start_paused = true)]
async fn node_leases_its_subnet_tells_the_host_and_follows_its_peers() {
    let world = World::new();
    world.registry.put("10.1.9.0-24", PEER);
    let act = async {
        world.until(|log| log.peers.contains("10.1.9.0/24")).await;
        world.registry.put("10.1.10.0-24", PEER);
        world.until(|log| log.peers.contains("10.1.10.0/24")).await;
        world.registry.remove("10.1.9.0-24");
        world.until(|log| !log.peers.contains("10.1.9.0/24")).await;
        let env = std::fs::read_to_string(world.subnet_file()).unwrap();
        assert!(env.contains("FLANNEL_MTU=1400\n"), "{env}");
        assert_eq!(world.leased().await, Some("10.1.5.0/24".parse().unwrap()));
        let json: serde_json::Value = serde_json::from_str(&world.stats().await).unwrap();
        assert_eq!((&json["subnet"], &json["num_peers"]), (&"10.1.5.0/24".into(), &1.into()));
    };
    world.live_while(act).await;
    assert!(world.log.borrow().dropped, "the backend goes with the node");
    assert!(world.leased().await.is_some(), "the lease stays");
}

#[tokio::test(start_paused = true)]
async fn statistics_are_read_for_those_who_ask_and_the_status_has_its_own_source() {
    let world = World::new();
    let act = async {
        for number in 9..50 {
            world.registry.put(&format!("10.1.{number}.0-24"), PEER);
            world.until(|log| log.peers.len() == number - 8).await;
        }
        assert_eq!(world.log.borrow().num_stats.get(), 0);
        world.stats().await;
        assert_eq!(world.log.borrow().num_stats.get(), 1);
        assert_eq!(world.health.line(), "10.1.5.0/24 on fake0, 41 peers");
    };
    world.live_while(act).await;
}

#[tokio::test(start_paused = true)]
async fn foreign_key_and_stock_peer_make_the_node_announce_its_lease() {
    let world = World::new();
    let act = async {
        world.until(|log| log.changes > 0).await;
        // Between what is due 3 s and 30 s after joining.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for (key, value, secs) in [("not-a-subnet", "", 3), ("10.1.9.0-24", PEER, 14)] {
            let scope = Scope::Key("10.1.5.0-24".to_owned());
            let listed = world.registry.list(&scope).await.unwrap();
            world.registry.put(key, value);
            tokio::time::sleep(Duration::from_secs(secs)).await;
            let now = world.registry.list(&scope).await.unwrap();
            assert_ne!(now.entries, listed.entries, "not announced after {key}");
        }
    };
    assert!(world.live_while(act).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn lost_lease_ends_the_node_and_its_backend() {
    let world = World::new();
    let act = async {
        world.until(|log| log.changes > 0).await;
        world.registry.remove("10.1.5.0-24");
        std::future::pending::<()>().await;
    };
    let error = world.live_while(act).await.unwrap();
    assert!(matches!(error, NodeError::LeaseLost(_)), "{error}");
    assert!(world.log.borrow().dropped);
}

#[tokio::test(start_paused = true)]
async fn node_whose_address_changes_keeps_its_subnet_and_says_so() {
    let world = World::new();
    let new = ip("192.0.2.77");
    let act = async {
        world.until(|log| log.changes > 0).await;
        // The first write fails: the registry is away just then.
        world.registry.fail_next(1, Fault::NotAsked);
        world.attrs.send_replace(LeaseAttrs::udp(new));
        tokio::time::sleep(Duration::from_millis(1)).await;
        while world.leased_by(new).await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.leased_by(new).await, Some("10.1.5.0/24".parse().unwrap()));
        assert_eq!(world.leased().await, None, "it moved");
        let json: serde_json::Value = serde_json::from_str(&world.stats().await).unwrap();
        assert_eq!(json["public_ip"], "192.0.2.77");
        while world.recall().is_none_or(|past| past.own.attrs.public_ip() != new) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(world.live_while(act).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn failed_backend_ends_the_node() {
    let world = World::new();
    let act = async {
        world.until(|log| log.changes > 0).await;
        let fail = world.fail.borrow_mut().take().unwrap();
        fail.send(EngineError::Mismatch { queues: 1, sockets: 2 }).unwrap();
        std::future::pending::<()>().await;
    };
    let error = world.live_while(act).await.unwrap();
    assert!(matches!(error, NodeError::Backend(BackendError::Engine(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn node_that_cannot_have_its_port_does_not_touch_the_registry() {
    let world = World::new();
    let taken = UdpError::Bind {
        addr: "192.0.2.1:8285".parse().unwrap(),
        source: std::io::ErrorKind::AddrInUse.into(),
    };
    *world.prepare_error.borrow_mut() = Some(BackendError::PortTaken(taken));
    let before = world.registry.list(&Scope::All).await.unwrap();
    let error = world.live_while(std::future::pending()).await.unwrap();
    assert!(matches!(error, NodeError::Backend(BackendError::PortTaken(_))), "{error}");
    assert_eq!(world.registry.list(&Scope::All).await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn node_that_cannot_write_subnet_env_works_but_is_not_ready() {
    let world = World::new();
    std::fs::create_dir(world.subnet_file()).unwrap();
    let act = async { world.until(|log| log.changes > 0).await };
    assert!(world.live_while(act).await.is_none());
    assert!(!world.is_announced().await);
}

#[tokio::test(start_paused = true)]
async fn node_starts_with_what_it_remembers_and_settles_with_the_registry_later() {
    let logs = Logs::capture();
    let world = World::new();
    world.registry.put("10.1.9.0-24", PEER);
    world.registry.put("10.1.10.0-24", PEER);
    let recorded = async { world.until(|log| log.peers.len() == 2).await };
    world.live_while(recorded).await;
    assert!(world.recall().is_none(), "nothing was written yet");
    let written = async {
        while world.recall().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    world.live_while(written).await;
    *world.log.borrow_mut() = Log::default();

    // While the registry is away one peer leaves, and another comes.
    world.registry.remove("10.1.9.0-24");
    world.registry.put("10.1.11.0-24", PEER);
    world.registry.fail_next(10, Fault::NotAsked);
    world.registry.set_config(r#"{"Network":"10.1.0.0/17"}"#);
    *world.past.borrow_mut() = world.recall();
    let act = async {
        world.until(|log| log.peers.len() == 2).await;
        assert!(world.log.borrow().peers.contains("10.1.9.0/24"), "as far as we knew");
        while !world.is_announced().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(logs.count("is still ours"), 0);
        world.until(|log| log.peers.contains("10.1.11.0/24")).await;
        // Its deletion was not observed, so it has half a minute to return.
        assert!(world.log.borrow().peers.contains("10.1.9.0/24"));
        world.until(|log| !log.peers.contains("10.1.9.0/24")).await;
        let lines = ["registry is back: lease 10.1.5.0/24 is still ours", "restart to follow it"];
        while lines.iter().any(|line| logs.count(line) == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(world.live_while(act).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn registry_that_dies_after_it_gave_the_config_is_not_waited_for() {
    for is_recorded in [true, false] {
        let world = World::new();
        let act = async {
            while is_recorded && world.recall().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        world.live_while(act).await;
        *world.log.borrow_mut() = Log::default();
        world.registry.fail_next(10_000, Fault::NotAsked);
        let start = tokio::time::Instant::now();
        let act = async {
            let announced = async {
                while !world.is_announced().await {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let announced = tokio::time::timeout(Duration::from_secs(40), announced).await;
            assert_eq!(announced.is_ok(), is_recorded);
            assert!(!is_recorded || start.elapsed() < Duration::from_secs(6), "{start:?}");
        };
        assert!(world.live_while(act).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn config_that_is_changed_is_a_warning_until_it_is_changed_back() {
    let world = World::new();
    world.registry.set_config(CONFIG);
    let act = async {
        while !world.is_announced().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.readiness().await["warnings"], serde_json::json!([]));
        world.registry.set_config(r#"{"Network":"10.1.0.0/17"}"#);
        while world.readiness().await["warnings"].as_array().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let json = world.readiness().await;
        let warning = json["warnings"][0].as_str().unwrap();
        assert!(warning.contains("Network is 10.1.0.0/17, was 10.1.0.0/16"), "{warning}");
        assert_eq!(json["ready"], true, "{json}");
        assert!(world.metrics().await.contains("\nflannel_warnings 1\n"));
        world.registry.set_config(CONFIG);
        while !world.readiness().await["warnings"].as_array().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(world.live_while(act).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn past_is_enough_while_the_registry_answers_but_takes_no_writes() {
    // Our entry, and whether we start.
    for (entry, starts) in [(None, true), (Some("[]"), true), (Some(PEER), false)] {
        let world = World::new();
        let written = async {
            while world.recall().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        world.live_while(written).await;
        world.registry.remove("10.1.5.0-24");
        if let Some(entry) = entry {
            world.registry.put("10.1.5.0-24", entry);
        }
        world.registry.refuse_writes(true);
        let act = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(world.is_announced().await, starts, "{entry:?}");
        };
        let ended = world.live_while(act).await;
        // With `exit` an entry that is gone is given up as soon as that is known.
        assert_eq!(ended.is_some(), entry.is_none(), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn remembered_subnet_that_was_taken_meanwhile_ends_the_node_and_is_forgotten() {
    let world = World::new();
    let written = async {
        while world.recall().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    world.live_while(written).await;
    world.registry.put("10.1.5.0-24", PEER);
    *world.past.borrow_mut() = world.recall();
    let error = world.live_while(std::future::pending()).await.unwrap().to_string();
    assert_eq!(error, "lease lost");
    assert!(world.recall().is_none());
    assert_eq!(world.leased().await, None, "the other node's lease is kept");
}

/// Rules are the host's business; tests/firewall has a host.
const NO_RULES: FirewallConfig = FirewallConfig {
    forward_rules: false,
    ip_masq: false,
    fully_random: true,
    resync: Duration::from_secs(5),
    blackhole_route: false,
};

/// A registry, a host and a backend that exist only in a test.
struct World {
    registry: MemoryRegistry,
    directory: tempfile::TempDir,
    health: Arc<SharedStatus>,
    log: Rc<RefCell<Log>>,
    fail: RefCell<Option<oneshot::Sender<EngineError>>>,
    past: RefCell<Option<PersistedLeases>>,
    attrs: watch::Sender<LeaseAttrs>,
    prepare_error: RefCell<Option<BackendError>>,
}

/// What became of the backend.
#[derive(Debug, Default)]
struct Log {
    peers: BTreeSet<String>,
    changes: usize,
    num_stats: std::cell::Cell<usize>,
    dropped: bool,
}

impl World {
    fn new() -> Self {
        Self {
            registry: MemoryRegistry::new(),
            directory: tempfile::tempdir().unwrap(),
            health: Arc::default(),
            log: Rc::default(),
            fail: RefCell::default(),
            past: RefCell::default(),
            attrs: watch::Sender::new(LeaseAttrs::udp(ip("192.0.2.1"))),
            prepare_error: RefCell::default(),
        }
    }

    fn state(&self) -> StateFile {
        StateFile::next_to(&self.subnet_file(), self.registry.config_name())
    }

    fn subnet_file(&self) -> std::path::PathBuf {
        self.directory.path().join("subnet.env")
    }

    /// Lets a node live until `act` is through, or returns what it died of before that.
    async fn live_while(&self, act: impl Future<Output = ()>) -> Option<NodeError> {
        let subnet_file = self.subnet_file();
        let settings = KvSettings {
            kind: "Memory",
            backend: None,
            in_use: "10.1.5.0/24".parse().ok(),
            state: self.state(),
            policy: KeepPolicy { margin: Duration::from_secs(3600), on_loss: OnLeaseLoss::Exit },
        };
        let manager = KvManager::new(&self.registry, settings);
        let manager = manager.after_config(CONFIG, self.past.borrow_mut().take());
        let node = Node {
            interface: "eth0".to_owned(),
            network: network::parse(CONFIG, None).unwrap(),
            previous: Some("10.1.5.0/24".parse().unwrap()),
            subnet_file: &subnet_file,
            firewall: NO_RULES,
            needs_registry: false,
            watches_host: false,
            health: &self.health,
        };
        let (fail, failure) = oneshot::channel();
        *self.fail.borrow_mut() = Some(fail);
        let setup = FakeSetup {
            log: Rc::clone(&self.log),
            failure,
            attrs: self.attrs.subscribe(),
            prepare_error: self.prepare_error.borrow_mut().take(),
        };
        let deadline = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! {
            Err(error) = node.live(manager, Box::new(setup)) => Some(error),
            () = act => None,
            () = deadline => panic!("nothing happens: {:?}", self.log.borrow()),
        }
    }

    fn recall(&self) -> Option<PersistedLeases> {
        let previous = "10.1.5.0/24".parse().ok();
        self.state().load(previous, None).ok()?.map(|remembered| remembered.past)
    }

    async fn until(&self, condition: impl Fn(&Log) -> bool) {
        while !condition(&self.log.borrow()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The subnet in our name.
    async fn leased(&self) -> Option<Ipv4Network> {
        self.leased_by(ip("192.0.2.1")).await
    }

    async fn leased_by(&self, public_ip: Ipv4Addr) -> Option<Ipv4Network> {
        let snapshot = self.registry.list(&Scope::All).await.ok()?;
        let ours = snapshot.leases().find(|lease| lease.attrs.public_ip() == public_ip);
        ours.map(|lease| lease.subnet)
    }

    /// Whether `/readyz` says that subnet.env is written.
    async fn is_announced(&self) -> bool {
        self.readiness().await["checks"]["subnet_file"]["ok"] == true
    }

    async fn readiness(&self) -> serde_json::Value {
        let (_, json) = observe::readiness(&self.health).await;
        serde_json::from_str(&json).unwrap()
    }

    async fn metrics(&self) -> String {
        observe::Endpoint::public(Arc::clone(&self.health)).metrics().await
    }

    async fn stats(&self) -> String {
        observe::stats(&self.health).await.unwrap()
    }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

struct FakeSetup {
    log: Rc<RefCell<Log>>,
    failure: oneshot::Receiver<EngineError>,
    attrs: watch::Receiver<LeaseAttrs>,
    prepare_error: Option<BackendError>,
}

struct FakeBackend {
    setup: FakeSetup,
}

impl Driver for FakeSetup {
    fn public_ip(&self) -> Ipv4Addr {
        ip("192.0.2.1")
    }

    fn plan(&self) -> Plan {
        Plan::default()
    }

    fn prepare<'a>(mut self: Box<Self>, _: Option<&'a LeaseAttrs>) -> Preparing<'a> {
        Box::pin(async move {
            match self.prepare_error.take() {
                Some(error) => Err(error),
                None => Ok((self as Box<dyn Prepared>, LeaseAttrs::udp(ip("192.0.2.1")))),
            }
        })
    }
}

impl Prepared for FakeSetup {
    fn start<'a>(self: Box<Self>, _lease: &'a Lease) -> Starting<'a> {
        Box::pin(async move { Ok(Box::new(FakeBackend { setup: *self }) as Box<dyn Backend>) })
    }
}

impl Backend for FakeBackend {
    fn mtu(&self) -> u16 {
        1400
    }

    fn apply(&mut self, events: Vec<LeaseEvent>) {
        let mut log = self.setup.log.borrow_mut();
        log.changes += 1;
        for event in events {
            match event {
                LeaseEvent::Added(lease) => log.peers.insert(lease.subnet.to_string()),
                LeaseEvent::Removed(subnet) => log.peers.remove(&subnet.to_string()),
            };
        }
    }

    fn failed(&mut self) -> LocalBoxFuture<'_, BackendError> {
        Box::pin(async {
            match (&mut self.setup.failure).await {
                Ok(error) => BackendError::Engine(error),
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn conditions(&self) -> Conditions {
        Conditions::default()
    }

    fn attrs(&self) -> Option<watch::Receiver<LeaseAttrs>> {
        Some(self.setup.attrs.clone())
    }

    fn peer_counts(&self) -> (Vec<PeerCount>, Vec<PeerCount>) {
        (Vec::new(), Vec::new())
    }

    fn device(&self) -> String {
        "fake0".to_owned()
    }

    fn num_peers(&self) -> usize {
        self.setup.log.borrow().peers.len()
    }

    fn stats(&self) -> BackendStats {
        let num_stats = &self.setup.log.borrow().num_stats;
        num_stats.set(num_stats.get() + 1);
        let num_peers = self.num_peers();
        BackendStats {
            device: "fake0".into(),
            num_peers,
            dataplane: None,
            fast_path: None,
            peers: Vec::new(),
        }
    }
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        self.setup.log.borrow_mut().dropped = true;
    }
}
