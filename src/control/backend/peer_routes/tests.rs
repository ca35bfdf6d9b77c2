//! The reconciler on tables in memory, with a clock that jumps.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{io, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::entries::{Change, Entries};
use super::forwarding::{Fixed, KernelForwarding};
use super::tables::{Found, Links, Tables};
use super::*;
use crate::control::backend::{Backend, BackendError};
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::net::KernelError;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::util::test_log::Logs;
use crate::routes::Prefix;

#[derive(Debug, Default)]
struct Memory {
    entries: Entries,
    /// Changes that the kernel refuses, by their text.
    refused: BTreeSet<String>,
    log: Vec<String>,
    has_device: bool,
    /// How often everything was read.
    num_reads: usize,
}

#[derive(Debug, Clone)]
struct MemoryTables(Arc<Mutex<Memory>>);

impl MemoryTables {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

impl Tables for MemoryTables {
    async fn read(&self, _: Links, _: Ipv4Network) -> Result<Found, KernelError> {
        let mut memory = self.lock();
        memory.num_reads += 1;
        Ok(Found { entries: memory.entries.clone(), strays: Vec::new() })
    }

    async fn apply(&self, _: Links, change: Change) -> Result<(), KernelError> {
        let mut memory = self.lock();
        memory.log.push(change.to_string());
        if memory.refused.contains(&change.to_string()) {
            return Err(KernelError::new(change.to_string(), io::ErrorKind::InvalidInput));
        }
        memory.entries.record(change);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryHost {
    tables: MemoryTables,
    changed: mpsc::UnboundedReceiver<()>,
}

impl PeerHost for MemoryHost {
    type Tables = MemoryTables;

    fn tables(&self) -> &MemoryTables {
        &self.tables
    }

    fn network(&self) -> Ipv4Network {
        "10.5.0.0/16".parse().unwrap()
    }

    fn own(&self) -> Ipv4Network {
        "10.5.99.0/24".parse().unwrap()
    }

    async fn reconcile_links(
        &mut self,
        conditions: &mut Conditions,
    ) -> Result<Links, BackendError> {
        if self.tables.lock().has_device {
            conditions.set("device", Condition::Ok);
            return Ok(LINKS);
        }
        conditions.set("device", Condition::Failed("gone".into()));
        Err(BackendError::NoUnderlay { addr: Ipv4Addr::LOCALHOST })
    }

    async fn peer(&self, subnet: Ipv4Network, attrs: &LeaseAttrs) -> Result<PeerEntries, String> {
        if attrs.public_ip().is_unspecified() {
            return Err("its PublicIP 0.0.0.0 names no host".to_owned());
        }
        if attrs.public_ip().octets()[3] == DIRECT {
            let hop = Hop { gateway: attrs.public_ip(), via: Via::Underlay };
            return Ok(PeerEntries { hop, vtep: None });
        }
        let mac = Mac::from_slice(&[2, 0, 0, 0, 0, attrs.public_ip().octets()[3]]).unwrap();
        let hop = Hop { gateway: subnet.network(), via: Via::Overlay };
        Ok(PeerEntries { hop, vtep: Some((mac, attrs.public_ip())) })
    }

    fn log_added(&self, subnet: Ipv4Network, peer: &PeerEntries) {
        tracing::info!("Subnet added: {subnet} via {}", peer.hop.gateway);
    }

    fn log_removed(&self, subnet: Ipv4Network) {
        tracing::info!("Subnet removed: {subnet}");
    }

    async fn changed(&mut self, _: &Entries) {
        if self.changed.recv().await.is_none() {
            std::future::pending().await
        }
    }

    fn drain_changes(&mut self) {
        while self.changed.try_recv().is_ok() {}
    }
}

fn ignored(lease: &Lease) -> String {
    format!("ignoring {}", lease.subnet)
}

/// Last octet of a host that gets a plain route.
const DIRECT: u8 = 222;

const LINKS: Links = Links { overlay: Some(7), underlay: 2 };

struct Node {
    routes: KernelForwarding,
    tables: MemoryTables,
    change: mpsc::UnboundedSender<()>,
}

impl Node {
    fn start(there: Entries) -> Self {
        let memory = Memory { entries: there, has_device: true, ..Memory::default() };
        let tables = MemoryTables(Arc::new(Mutex::new(memory)));
        let (change, changed) = mpsc::unbounded_channel();
        let host = MemoryHost { tables: tables.clone(), changed };
        let conditions = Conditions::ok(&["device", "peers"]);
        let attrs = watch::channel(LeaseAttrs::udp(Ipv4Addr::LOCALHOST)).1;
        let fixed =
            Fixed { kind: "vxlan", device: "flannel.1".to_owned(), mtu: 1450, attrs, ignored };
        let routes =
            KernelForwarding::start(fixed, host, LINKS, conditions, |tasks, reconciler| {
                tasks.spawn(reconciler.run());
            });
        Self { routes, tables, change }
    }

    fn condition(&self, name: &str) -> Condition {
        self.routes.conditions().get(name)
    }

    /// What was done since the last call.
    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.tables.lock().log)
    }

    fn num_entries(&self) -> usize {
        self.tables.lock().entries.keys().count()
    }
}

fn subnet(third: u8) -> Ipv4Network {
    Ipv4Network::containing(Ipv4Addr::new(10, 5, third, 0), 24).unwrap()
}

fn added(third: u8, host: &str, kind: Option<&str>) -> LeaseEvent {
    let mut attrs = LeaseAttrs::udp(host.parse().unwrap());
    attrs.backend_type = kind.map(str::to_owned);
    LeaseEvent::Added(Lease { ipv6_subnet: None, subnet: subnet(third), attrs, expires: None })
}

fn vxlan(third: u8, host: &str) -> LeaseEvent {
    added(third, host, Some("vxlan"))
}

async fn a_while() {
    sleep(Duration::from_millis(200)).await;
}

#[tokio::test(start_paused = true)]
async fn peer_that_comes_changes_and_goes_costs_its_own_entries() {
    let mut node = Node::start(Entries::default());
    node.routes.apply((1..=50).map(|third| vxlan(third, &format!("192.0.2.{third}"))).collect());
    a_while().await;
    assert_eq!(node.num_entries(), 150);
    node.take_log();
    node.routes.apply(vec![vxlan(7, "192.0.2.200")]);
    a_while().await;
    let log = node.take_log();
    assert_eq!(log.len(), 3, "the route stays: {log:?}");
    node.routes.apply(vec![LeaseEvent::Removed(subnet(7))]);
    a_while().await;
    let log = node.take_log();
    assert!(log.len() == 3 && log[0].starts_with("delete route"), "{log:?}");
    assert_eq!((node.num_entries(), node.routes.num_peers()), (147, 49));
}

#[tokio::test(start_paused = true)]
async fn change_after_the_first_list_reads_no_tables() {
    let mut node = Node::start(Entries::default());
    node.routes.apply(vec![vxlan(2, "192.168.0.2")]);
    node.routes.synced();
    a_while().await;
    let num_reads = node.tables.lock().num_reads;
    for third in [3, 4] {
        node.routes.apply(vec![vxlan(third, "192.168.0.3")]);
        node.routes.synced();
        a_while().await;
    }
    assert_eq!(node.tables.lock().num_reads, num_reads);
    assert_eq!(node.tables.lock().entries.routes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn leftovers_go_once_the_registry_has_listed_everything_and_not_before() {
    let mut before = Node::start(Entries::default());
    before.routes.apply(vec![vxlan(1, "192.0.2.1"), vxlan(2, "192.0.2.2")]);
    a_while().await;
    let left = before.tables.lock().entries.clone();

    let mut node = Node::start(left);
    node.routes.apply(vec![vxlan(1, "192.0.2.1")]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(node.num_entries(), 6, "the peer may be in the registry");
    assert_eq!(node.take_log(), Vec::<String>::new(), "what is in place is not touched");
    node.routes.synced();
    a_while().await;
    assert_eq!((node.num_entries(), node.take_log().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deletes_is_back_at_the_event_and_without_one_in_ten_seconds() {
    let mut node = Node::start(Entries::default());
    node.routes.apply(vec![vxlan(1, "192.0.2.1")]);
    a_while().await;
    node.tables.lock().entries = Entries::default();
    node.change.send(()).unwrap();
    a_while().await;
    assert_eq!(node.num_entries(), 3);
    node.tables.lock().entries.routes.clear();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(node.num_entries(), 3);
}

#[tokio::test(start_paused = true)]
async fn failing_peer_is_tried_again_by_itself_and_holds_up_nobody() {
    let mut node = Node::start(Entries::default());
    let refused = "set neighbour 10.5.1.0 lladdr 02:00:00:00:00:01".to_owned();
    node.tables.lock().refused.insert(refused.clone());
    node.routes.apply(vec![vxlan(1, "192.0.2.1"), vxlan(2, "192.0.2.2")]);
    a_while().await;
    assert_eq!(node.num_entries(), 5, "all but one");
    assert!(
        matches!(node.condition("peers"), Condition::Degraded(reason) if reason.contains(&refused))
    );
    sleep(Duration::from_secs(300)).await;
    let tries = node.take_log().iter().filter(|line| **line == refused).count();
    assert!((5..80).contains(&tries), "{tries} tries in five minutes");
    node.tables.lock().refused.clear();
    sleep(Duration::from_secs(61)).await;
    assert_eq!((node.num_entries(), node.condition("peers")), (6, Condition::Ok));
}

#[tokio::test(start_paused = true)]
async fn lease_that_cannot_be_followed_is_reported_and_the_others_go_on() {
    let mut node = Node::start(Entries::default());
    node.routes.apply(vec![vxlan(1, "0.0.0.0"), vxlan(2, "192.0.2.2")]);
    a_while().await;
    assert_eq!(node.num_entries(), 3);
    let expected = "lease 10.5.1.0/24: its PublicIP 0.0.0.0 names no host";
    assert_eq!(node.condition("peers"), Condition::Degraded(expected.to_owned()));
    node.routes.apply(vec![vxlan(1, "192.0.2.1")]);
    a_while().await;
    assert_eq!((node.num_entries(), node.condition("peers")), (6, Condition::Ok));
    node.routes.apply(vec![vxlan(1, "0.0.0.0")]);
    a_while().await;
    assert_eq!(node.num_entries(), 3, "its old entries lead nowhere now");
}

#[tokio::test(start_paused = true)]
async fn lease_outside_of_network_or_inside_our_own_subnet_gets_no_route_and_one_line() {
    let logs = Logs::capture();
    let mut node = Node::start(Entries::default());
    for (misplaced, fault) in [
        ("192.0.2.0/24", "it is not inside the Network 10.5.0.0/16"),
        ("10.4.0.0/15", "it is not inside the Network 10.5.0.0/16"),
        ("10.5.99.128/25", "it is inside our own subnet 10.5.99.0/24"),
    ] {
        let LeaseEvent::Added(lease) = vxlan(1, "192.0.2.1") else { panic!("no lease") };
        let lease = Lease { subnet: misplaced.parse().unwrap(), ..lease };
        node.routes.apply(vec![LeaseEvent::Added(lease)]);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(node.num_entries(), 0, "{misplaced}");
        let line = format!("lease {misplaced}: {fault}");
        assert_eq!(logs.count(&line), 1, "{line}");
        node.routes.apply(vec![LeaseEvent::Removed(misplaced.parse().unwrap())]);
        a_while().await;
        assert_eq!(node.condition("peers"), Condition::Ok);
    }
}

#[tokio::test(start_paused = true)]
async fn leases_of_other_backends_are_no_peers() {
    let mut node = Node::start(Entries::default());
    let kinds = [None, Some("host-gw"), Some("VXLAN"), Some("")];
    node.routes
        .apply(kinds.iter().zip(1..).map(|(kind, n)| added(n, "192.0.2.9", *kind)).collect());
    a_while().await;
    assert_eq!((node.num_entries(), node.routes.num_peers()), (0, 0));
    assert_eq!(node.condition("peers"), Condition::Ok);
    node.routes.apply(vec![vxlan(1, "192.0.2.1")]);
    a_while().await;
    assert_eq!(node.routes.num_peers(), 1);
    node.routes.apply(vec![added(1, "192.0.2.1", Some("host-gw"))]);
    a_while().await;
    assert_eq!((node.num_entries(), node.routes.num_peers()), (0, 0), "it changed its backend");
}

#[tokio::test(start_paused = true)]
async fn device_that_is_gone_is_reported_and_filled_again_when_it_is_back() {
    let mut node = Node::start(Entries::default());
    node.routes.apply(vec![vxlan(1, "192.0.2.1")]);
    a_while().await;
    {
        let mut memory = node.tables.lock();
        memory.has_device = false;
        memory.entries = Entries::default();
    }
    node.change.send(()).unwrap();
    a_while().await;
    assert_eq!(node.condition("device"), Condition::Failed("gone".into()));
    node.routes.apply(vec![vxlan(2, "192.0.2.2")]);
    a_while().await;
    assert_eq!(node.num_entries(), 0);
    node.tables.lock().has_device = true;
    sleep(Duration::from_secs(2)).await;
    assert_eq!((node.num_entries(), node.condition("device")), (6, Condition::Ok));
}

#[tokio::test(start_paused = true)]
async fn stocks_log_lines_name_peers_that_come_and_go_and_routes_that_are_recovered() {
    let logs = Logs::capture();
    let mut node = Node::start(Entries::default());
    node.routes.apply(vec![vxlan(1, "192.0.2.222"), added(2, "192.0.2.2", Some("host-gw"))]);
    a_while().await;
    node.routes.apply(vec![vxlan(1, "192.0.2.222"), added(2, "192.0.2.2", Some("host-gw"))]);
    a_while().await;
    assert_eq!(logs.count("Route recovered"), 0);
    node.tables.lock().entries.routes.clear();
    node.change.send(()).unwrap();
    a_while().await;
    node.routes.apply(vec![LeaseEvent::Removed(subnet(1))]);
    a_while().await;
    for line in [
        "Subnet added: 10.5.1.0/24 via 192.0.2.222",
        "ignoring 10.5.2.0/24",
        "Route recovered 10.5.1.0/24 : 192.0.2.222",
        "Subnet removed: 10.5.1.0/24",
    ] {
        assert_eq!(logs.count(line), 1, "{line}");
    }
}
