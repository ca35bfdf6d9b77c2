//! [`Cluster`]: an API server, and nodes of ours.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::subnet::kube::manager::{KubeManager, KubeSettings};
use crate::control::subnet::lease::{LeaseAttrs, LeaseEvent};
use crate::control::subnet::{
    AcquireError, HeldLease, LeaseLost, LeaseStatus, LeaseUpdate, SubnetManager,
};
use crate::control::util::test_port::free_addr;
use crate::lab::kube_api::KubeApi;

pub(super) const CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// An API server on loopback, and a directory for a node.
pub(super) struct Cluster {
    pub(super) api: KubeApi,
    pub(super) dir: TempDir,
    addr: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        let addr = free_addr();
        let listener = TcpListener::bind(addr).await.unwrap();
        let mut cluster =
            Self { api: KubeApi::default(), dir: tempfile::tempdir().unwrap(), addr, server: None };
        cluster.serve(listener);
        std::fs::write(cluster.dir.path().join("net-conf.json"), CONFIG).unwrap();
        cluster
    }

    fn serve(&mut self, listener: TcpListener) {
        self.server = Some(tokio::spawn(self.api.clone().serve(listener, None)));
    }

    /// Kills the server, with all its connections. Its store stays.
    pub(super) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            drop(server.await);
        }
    }

    pub(super) fn start_again(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.addr).unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    pub(super) fn config(&self, node: &str) -> KubeConfig {
        KubeConfig {
            api_url: Some(format!("http://{}", self.addr)),
            kubeconfig: None,
            service: None,
            prefix: "flannel.alpha.coreos.com".parse().unwrap(),
            net_conf: self.net_conf(),
            sets_condition: true,
            node: NodeIdentity::Name(node.to_owned()),
            queue_depth: 5000,
        }
    }

    pub(super) fn net_conf(&self) -> PathBuf {
        self.dir.path().join("net-conf.json")
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.dir.path().join("subnet.state.json")
    }

    /// Requests that change something, as `PATH BODY`.
    pub(super) fn patches(&self) -> Vec<String> {
        let requests = self.api.requests().into_iter();
        let patches = requests.filter(|seen| seen.method == "PATCH");
        patches.map(|seen| format!("{} {}", seen.path, seen.body)).collect()
    }

    /// An annotation of a node, such as `public-ip`.
    pub(super) fn annotation(&self, node: &str, name: &str) -> Value {
        self.api.node(node)["metadata"]["annotations"][key(name)].clone()
    }

    /// Gives a node an annotation; takes it away with `null`.
    pub(super) fn annotate(&self, node: &str, name: &str, value: Value) {
        let patch = json!({ "metadata": { "annotations": { key(name): value } } });
        self.api.patch_node(node, &patch);
    }

    /// A peer as stock leaves it.
    pub(super) fn add_peer(&self, name: &str, cidr: &str, ip: &str) {
        self.api.put_node(json!({
            "metadata": { "name": name, "annotations": {
                key("backend-data"): "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:02\"}",
                key("backend-type"): "vxlan",
                key("kube-subnet-manager"): "true",
                key("public-ip"): ip,
            } },
            "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        }));
    }

    pub(super) fn condition(&self, node: &str) -> Value {
        let node = self.api.node(node);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|it| it["type"] == "NetworkUnavailable");
        found.unwrap_or_default()
    }
}

fn key(name: &str) -> String {
    format!("flannel.alpha.coreos.com/{name}")
}

pub(super) fn vxlan(ip: [u8; 4]) -> LeaseAttrs {
    let data = json!({ "VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44" });
    let attrs = LeaseAttrs::udp(ip.into()).with_data(Some(data));
    LeaseAttrs { backend_type: Some("vxlan".to_owned()), ..attrs }
}

pub(super) fn manager<'a>(config: &'a KubeConfig, dir: &Path) -> KubeManager<'a> {
    let subnet_file = dir.join("subnet.env");
    let settings = KubeSettings { backend: None, subnet_file: &subnet_file, in_use: None };
    KubeManager::new(config, settings).unwrap()
}

/// What a running node says, collected.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Such as `+10.244.2.0/24 of 192.0.2.2` and `-10.244.2.0/24`.
    pub(super) events: Vec<String>,
    /// Whether a list had all nodes.
    pub(super) is_complete: bool,
    pub(super) subnet: Option<String>,
    pub(super) refused: Option<AcquireError>,
    pub(super) lost: Option<LeaseLost>,
    pub(super) status: Option<LeaseStatus>,
    pub(super) is_reachable: bool,
    pub(super) previous_mac: Option<Value>,
    pub(super) public_ip: Option<std::net::Ipv4Addr>,
}

/// A node without a backend. Ends with the value.
pub(super) struct RunningNode {
    pub(super) said: Rc<RefCell<Said>>,
    pub(super) attrs: watch::Sender<LeaseAttrs>,
    task: JoinHandle<()>,
}

impl RunningNode {
    /// Starts it on this thread.
    pub(super) fn start(cluster: &Cluster, config: KubeConfig, attrs: LeaseAttrs) -> Self {
        let said = Rc::new(RefCell::new(Said::default()));
        let attrs = watch::Sender::new(attrs);
        let dir = cluster.dir.path().to_owned();
        let live = live(config, dir, attrs.subscribe(), Rc::clone(&said));
        Self { said, attrs, task: tokio::task::spawn_local(live) }
    }

    /// Waits until what it said is like this.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Said) -> bool) {
        eventually(what, || condition(&self.said.borrow())).await;
    }

    pub(super) async fn until_events(&self, expected: &[&str]) {
        let heard = || self.said.borrow().events.clone();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while heard() != expected {
            let is_late = tokio::time::Instant::now() > deadline;
            assert!(!is_late, "expected {expected:?}, heard {:?}", heard());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn status(&self) -> LeaseStatus {
        self.said.borrow().status.clone().unwrap()
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(
    config: KubeConfig,
    dir: PathBuf,
    attrs: watch::Receiver<LeaseAttrs>,
    said: Rc<RefCell<Said>>,
) {
    let mut manager = manager(&config, &dir);
    let network = manager.config(async || None).await;
    let own = attrs.borrow().clone();
    let before = manager.own_attrs(&network, own.public_ip()).await;
    let mac = before.and_then(|attrs| attrs.v4.backend_data).map(|data| data["VtepMAC"].clone());
    said.borrow_mut().previous_mac = mac;
    said.borrow_mut().public_ip = manager.public_ip();
    let held = match manager.acquire(&network, own).await {
        Ok(held) => held,
        Err(error) => {
            said.borrow_mut().refused = Some(error);
            return;
        }
    };
    said.borrow_mut().subnet = Some(held.lease().subnet.to_string());
    let (updates, mut changes) = mpsc::unbounded_channel();
    held.announced();
    let mut keep = std::pin::pin!(held.keep(Some(attrs), updates));
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            lost = &mut keep => {
                said.borrow_mut().lost = Some(lost);
                return;
            }
            Some(LeaseUpdate { events, is_complete }) = changes.recv() => {
                let text = |event: LeaseEvent| match event {
                    LeaseEvent::Added(lease) => format!("+{} of {}", lease.subnet, lease.attrs),
                    LeaseEvent::Removed(subnet) => format!("-{subnet}"),
                };
                said.borrow_mut().events.extend(events.into_iter().map(text));
                said.borrow_mut().is_complete |= is_complete;
            }
            _ = ticks.tick() => {
                said.borrow_mut().status = Some(held.status());
                said.borrow_mut().is_reachable = held.is_reachable();
            }
        }
    }
}

/// Runs a test whose nodes are on its thread.
pub(super) async fn on_this_thread(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
