//! [`KubeServer`]: a double of a Kubernetes API server in a namespace of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::topology::{ETCD_ADDR, Names};
use crate::control::config::network;
use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::netns_agent;
use crate::lab::host::process::{Process, ProcessId};
use crate::lab::host::wait::wait_for;
use crate::lab::kube_api::Seen;
use crate::routes::Prefix;

/// Where it listens: kube-apiserver's former port for HTTP.
const ADDR: SocketAddrV4 = SocketAddrV4::new(ETCD_ADDR, 8080);

/// It is ready in well under a second; a busy machine may take longer.
const READY: Duration = Duration::from_secs(60);

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running API server.
#[derive(Debug)]
pub struct KubeServer {
    netns: Netns,
    dir: PathBuf,
    flannel_lab: PathBuf,
    /// The network config, from which nodes get their podCIDRs.
    config: String,
    process: Process,
}

/// The flags of a node of `names`' lab.
pub(super) fn flags(names: &Names) -> Vec<String> {
    vec![
        "-kube-subnet-mgr".to_owned(),
        format!("-kube-api-url=http://{ADDR}"),
        format!("-net-config-path={}", net_conf(&names.dir()).display()),
    ]
}

fn net_conf(dir: &Path) -> PathBuf {
    dir.join("net-conf.json")
}

impl KubeServer {
    /// Starts a server in `netns`; its nodes and its log are below `dir`.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started. Call [`wait_ready`](Self::wait_ready) next.
    pub(super) fn start(
        netns: Netns,
        dir: PathBuf,
        flannel_lab: &Path,
        config: &str,
    ) -> Result<Self, LabError> {
        let process = spawn(&netns, &dir, flannel_lab)?;
        let (flannel_lab, config) = (flannel_lab.to_owned(), config.to_owned());
        Ok(Self { netns, dir, flannel_lab, config, process })
    }

    /// Which process it is.
    pub const fn id(&self) -> ProcessId {
        self.process.id()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`LabError::Daemon`] with the last line of its log when it ends.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        wait_for("the API server to answer", READY, || {
            if let Some(status) = self.process.ended() {
                let (daemon, what) = ("API server".to_owned(), format!("ended with {status}"));
                return Err(LabError::Daemon { daemon, what, said: self.process.log_tail(1) });
            }
            Ok(self.ask("GET", "/double/requests", "").is_ok().then_some(()))
        })
    }

    /// Stops it at once, as a crash would. Its nodes stay.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    pub fn start_again(&mut self) -> Result<(), LabError> {
        self.process = spawn(&self.netns, &self.dir, &self.flannel_lab)?;
        self.wait_ready()
    }

    /// Adds the node `nNUMBER`, with the subnet of this number as its podCIDR.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub(super) fn add_node(&self, number: usize) -> Result<(), LabError> {
        self.put_node(&format!("n{number}"), &self.pod_cidr(number), &json!({}))
    }

    /// The subnet of this number, from 1 on.
    fn pod_cidr(&self, number: usize) -> String {
        let Ok(network) = network::parse(&self.config, None) else { return String::new() };
        let (first, len) = (u32::from(network.v4.subnet_min), network.v4.subnet_len);
        let step = u32::try_from(number - 1).unwrap_or(0) << (32 - len);
        ipnetwork::Ipv4Network::containing((first + step).into(), len)
            .map_or_else(|_| String::new(), |cidr| cidr.to_string())
    }

    /// Adds a node with these annotations.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn put_node(&self, name: &str, cidr: &str, annotations: &Value) -> Result<(), LabError> {
        self.change("POST", "/api/v1/nodes", &node_object(name, cidr, annotations).to_string())
    }

    /// Adds many nodes at once: name, podCIDR, annotations.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn put_nodes(&self, nodes: &[(String, String, Value)]) -> Result<(), LabError> {
        let object = |(name, cidr, annotations): &(String, String, Value)| {
            node_object(name, cidr, annotations)
        };
        let nodes: Vec<Value> = nodes.iter().map(object).collect();
        self.change("POST", "/double/nodes", &json!(nodes).to_string())
    }

    /// A node as it is now.
    ///
    /// # Errors
    /// [`LabError::Io`], also when there is none.
    pub fn node(&self, name: &str) -> Result<Value, LabError> {
        self.get(&format!("/api/v1/nodes/{name}"))
    }

    /// Removes a node.
    ///
    /// # Errors
    /// [`LabError::Io`], also when there is none.
    pub fn delete_node(&self, name: &str) -> Result<(), LabError> {
        self.change("DELETE", &format!("/api/v1/nodes/{name}"), "")
    }

    /// Forgets all nodes.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn forget(&self) -> Result<(), LabError> {
        self.change("POST", "/double/forget", "")
    }

    /// All requests since it was started.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn requests(&self) -> Result<Vec<Seen>, LabError> {
        let requests = self.get("/double/requests")?;
        serde_json::from_value(requests).map_err(io::Error::from).map_err(io_error())
    }

    /// Writes the network config that nodes read, as a config map would be mounted.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub(super) fn put_config(&self, json: &str) -> Result<(), LabError> {
        let path = net_conf(&self.dir);
        std::fs::write(&path, json).map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Every node that has said that it takes part: its podCIDR as a key, and its annotations.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub(super) fn leases(&self) -> Result<Vec<(String, String)>, LabError> {
        let list = self.get("/api/v1/nodes")?;
        let nodes = list["items"].as_array().into_iter().flatten();
        let lease = |node: &Value| {
            let annotations = &node["metadata"]["annotations"];
            let cidr = node["spec"]["podCIDR"].as_str()?.replace('/', "-");
            let is_managed = annotations["flannel.alpha.coreos.com/kube-subnet-manager"] == "true";
            is_managed.then(|| (cidr, annotations.to_string()))
        };
        Ok(nodes.filter_map(lease).collect())
    }

    /// Removes the node with the podCIDR `subnet`, such as `10.5.7.0-24`; whether there was one.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub(super) fn delete_lease(&self, subnet: &str) -> Result<bool, LabError> {
        let list = self.get("/api/v1/nodes")?;
        let cidr = subnet.replace('-', "/");
        let mut nodes = list["items"].as_array().into_iter().flatten();
        let Some(node) = nodes.find(|node| node["spec"]["podCIDR"] == cidr.as_str()) else {
            return Ok(false);
        };
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        self.delete_node(name).map(|()| true)
    }

    fn get(&self, path: &str) -> Result<Value, LabError> {
        let body = self.ask("GET", path, "").map_err(io_error())?;
        serde_json::from_str(&body).map_err(io::Error::from).map_err(io_error())
    }

    fn change(&self, method: &str, path: &str, body: &str) -> Result<(), LabError> {
        self.ask(method, path, body).map(drop).map_err(io_error())
    }

    /// The body of a good answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = self.netns.enter(|| TcpStream::connect_timeout(&ADDR.into(), DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let len = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {ADDR}\r\nContent-Length: {len}\r\n\r\n{body}"
        )?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        match head.split(' ').nth(1) {
            Some("200" | "201") => Ok(body.to_owned()),
            _ => Err(io::Error::other(body.to_owned())),
        }
    }
}

fn node_object(name: &str, cidr: &str, annotations: &Value) -> Value {
    json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
    })
}

fn io_error() -> impl FnOnce(io::Error) -> LabError {
    LabError::io("ask the API server".to_owned())
}

fn spawn(netns: &Netns, dir: &Path, flannel_lab: &Path) -> Result<Process, LabError> {
    let store = dir.join("kube-api.json").display().to_string();
    let args = [netns_agent::COMMAND.to_owned(), "kube-api".to_owned(), ADDR.to_string(), store];
    Process::start(netns, flannel_lab, &args, dir.join("kube-api.log"))
}
