use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::forwarding::CloudRoute;
use super::*;
use crate::control::backend::peer_routes::Underlay;
use crate::control::backend::{Backend, BackendSetup, Driver, UdpOptions};
use crate::control::conditions::Condition;
use crate::control::config::daemon::{FastPathChoice, SourcePorts};
use crate::control::config::network::parse;
use crate::control::host::iface::{ExternalInterface, IfaceChoice};
use crate::control::host::net;
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::control::util::test_log::Logs;
use crate::dataplane::{Offloads, ThreadConfig};

/// A cloud whose attempts end as a test wants, and well once it has no more wishes.
#[derive(Debug, Clone, Default)]
struct Scripted {
    ends: Arc<Mutex<VecDeque<End>>>,
    attempts: Arc<Mutex<Vec<(Wanted, Instant)>>>,
}

type End = Result<Option<String>, CloudError>;

impl Cloud for Scripted {
    const ROUTES: &'static str = "a route of a test";

    async fn ensure_route(&mut self, wanted: Wanted) -> End {
        self.attempts.lock().unwrap().push((wanted, Instant::now()));
        self.ends.lock().unwrap().pop_front().unwrap_or(Ok(None))
    }
}

impl Scripted {
    fn num_attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    /// Waits until there were so many attempts, and returns how long the last was waited for.
    async fn attempt(&self, number: usize) -> Duration {
        while self.num_attempts() < number {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let attempts = self.attempts.lock().unwrap();
        attempts[number - 1].1 - attempts[number - 2].1
    }
}

/// A node on the loopback interface.
fn setup() -> BackendSetup {
    let addr = Ipv4Addr::LOCALHOST;
    let udp = UdpOptions {
        num_workers: 1,
        offloads: Offloads::OFF,
        source_ports: SourcePorts::Auto,
        fast_path: FastPathChoice::Off,
        host: None,
        threads: ThreadConfig::default(),
    };
    BackendSetup {
        iface: ExternalInterface { name: "lo".into(), mtu: 1460, addr, public_ip: addr },
        choice: IfaceChoice::default(),
        network: parse(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"gce"}}"#, None).unwrap(),
        mtu: None,
        udp,
    }
}

/// A backend of this cloud, on the loopback interface.
fn start(cloud: &Scripted) -> CloudRoute {
    let BackendSetup { iface, choice, .. } = setup();
    let addr = iface.addr;
    let (connection, net) = net::connect().unwrap();
    tokio::spawn(connection);
    let underlay = Underlay::new(iface, choice);
    let (subnet, network) = ("10.5.7.0/24".parse().unwrap(), "10.5.0.0/16".parse().unwrap());
    let wanted = Wanted { subnet, network, addr };
    CloudRoute::start(("lo".to_owned(), 1460), wanted, cloud.clone(), (net, underlay))
}

#[tokio::test(start_paused = true)]
async fn route_is_tried_until_it_is_there_then_checked_slowly_and_when_asked() {
    let logs = Logs::capture();
    let cloud = Scripted::default();
    let refused = || Err(CloudError("no permission".to_owned()));
    cloud.ends.lock().unwrap().extend([refused(), refused(), Ok(None), Ok(Some("odd".to_owned()))]);
    let mut backend = start(&cloud);
    backend.attempted(Duration::from_secs(60)).await;
    let condition = |backend: &CloudRoute| backend.conditions().get("cloud_route");
    assert_eq!(condition(&backend), Condition::Failed("no permission".to_owned()));
    for (number, least, most) in [(2, 2, 7), (3, 5, 12), (4, 450, 770)] {
        let waited = cloud.attempt(number).await;
        assert!((Duration::from_secs(least)..=Duration::from_secs(most)).contains(&waited));
    }
    assert_eq!(condition(&backend), Condition::Degraded("odd".to_owned()));
    assert_eq!(logs.lines_with("cloud_route: ok again").len(), 1);
    assert_eq!(logs.lines_with("cloud_route degraded: odd").len(), 1);

    backend.check();
    assert!(cloud.attempt(5).await < Duration::from_secs(5), "asked");
    assert_eq!(condition(&backend), Condition::Ok);
    assert!(cloud.attempt(6).await >= Duration::from_secs(450), "once");
    assert_eq!(backend.conditions().get("underlay"), Condition::Ok);
}

#[tokio::test(start_paused = true)]
async fn route_that_is_there_at_once_is_no_recovery() {
    let logs = Logs::capture();
    let mut backend = start(&Scripted::default());
    backend.attempted(Duration::from_secs(60)).await;
    assert_eq!(backend.conditions().get("cloud_route"), Condition::Ok);
    assert_eq!(logs.lines_with("ok again"), [""; 0]);
}

#[tokio::test]
async fn driver_writes_a_lease_without_a_type_and_returns_after_the_first_attempt() {
    let driver = |cloud| Box::new(CloudDriver::new(setup(), cloud));
    let cloud = Scripted::default();
    let refused = Err(CloudError("VARIABLE: nonsense".to_owned()));
    let problems = driver(refused.clone()).plan().problems;
    assert_eq!(problems, ["VARIABLE: nonsense"]);
    let Err(error) = driver(refused).prepare(None).await else { panic!() };
    assert_eq!(error.to_string(), "VARIABLE: nonsense");

    let plan = driver(Ok(cloud.clone())).plan();
    assert_eq!(plan.device.as_deref(), Some("none: a route of a test, by lo, MTU 1460"));
    assert_eq!((plan.listen, plan.problems), (None, Vec::new()));
    let (prepared, attrs) = driver(Ok(cloud.clone())).prepare(None).await.unwrap();
    assert_eq!(attrs, LeaseAttrs::udp(Ipv4Addr::LOCALHOST));
    assert_eq!(cloud.num_attempts(), 0);
    let subnet = "10.5.7.0/24".parse().unwrap();
    let lease = Lease { subnet, ipv6_subnet: None, attrs, expires: None };
    let backend = prepared.start(&lease).await.unwrap();
    assert_eq!((cloud.num_attempts(), backend.mtu()), (1, 1460));
    assert_eq!(cloud.attempts.lock().unwrap()[0].0.subnet, subnet);
}

#[tokio::test(start_paused = true)]
async fn peers_are_nodes_without_a_type_and_others_are_logged_once() {
    let logs = Logs::capture();
    let mut backend = start(&Scripted::default());
    let lease = |subnet: &str, kind: Option<&str>| {
        let backend_type = kind.map(str::to_owned);
        let attrs = LeaseAttrs { backend_type, ..LeaseAttrs::udp([10, 0, 0, 9].into()) };
        LeaseEvent::Added(Lease {
            subnet: subnet.parse().unwrap(),
            ipv6_subnet: None,
            attrs,
            expires: None,
        })
    };
    let vxlan = || lease("10.5.9.0/24", Some("vxlan"));
    backend.apply(vec![lease("10.5.8.0/24", None), vxlan(), vxlan(), lease("10.5.8.0/24", None)]);
    assert_eq!((backend.num_peers(), backend.device().as_str()), (1, "lo"));
    assert_eq!(logs.lines_with("Subnet added: 10.5.8.0/24").len(), 1);
    let warned = "10.0.0.9 has leased 10.5.9.0/24 for vxlan: the cloud has no route to it";
    assert_eq!(logs.lines_with(warned).len(), 1);
    backend.apply(vec![LeaseEvent::Removed("10.5.8.0/24".parse().unwrap())]);
    assert_eq!(backend.num_peers(), 0);
}

#[tokio::test(start_paused = true)]
async fn transient_faults_are_tried_thrice_throttled_ones_five_times_final_ones_once() {
    let reason = || "x".to_owned();
    for (fault, attempts) in [
        (Fault::Transient(reason()), 3),
        (Fault::Throttled(reason()), 5),
        (Fault::Final(reason()), 1),
    ] {
        let (mut retries, mut num) = (Retries::new(), 1);
        while retries.wait(fault.clone()).await.is_ok() {
            num += 1;
        }
        assert_eq!(num, attempts, "{fault:?}");
    }
}

#[test]
fn endpoint_has_a_path_of_its_own() {
    for (url, path) in
        [("http://h:1/compute/v1/", "/compute/v1/x"), ("http://h:1", "/x"), ("http://h:1//", "/x")]
    {
        assert_eq!(Endpoint::metadata(url).unwrap().path("/x"), path);
    }
    assert_eq!(Endpoint::metadata("http://h/v1/").unwrap().url(), "http://h/v1");
    assert!(Endpoint::metadata("h/v1").is_err());
}
