//! `lab.json`: what a lab consists of, for commands that come later.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use super::LabError;
use super::host::netns::Netns;
use super::host::process::ProcessId;
use super::link::Quality;
use super::network::LabSpec;
use super::network::backend::Backend;
use super::network::daemon::{Daemon, SubnetEnv};
use super::network::pods::Pod;
use super::network::registry::RegistryKind;
use super::network::topology::{LABS_DIR, Names};
use super::suggest;

/// A lab as it was when the file was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// The process that will remove it; none for a lab that stays.
    pub owner: Option<ProcessId>,
    /// MTU of the underlay, in bytes.
    pub mtu: u16,
    /// Where its nodes keep their leases.
    pub registry: RegistryKind,
    /// How packets travel between its nodes.
    pub backend: Backend,
    /// The process of its etcd or API server, if it has one.
    pub etcd: Option<ProcessId>,
    /// Its nodes.
    pub nodes: Vec<NodeState>,
    /// Links that delay or lose packets, by name.
    pub links: BTreeMap<String, Quality>,
}

/// A node as it was when the file was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name within the lab, such as `n1`.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its address on the underlay.
    pub addr: Ipv4Addr,
    /// What it runs.
    pub daemon: Daemon,
    /// Its daemon's process.
    pub process: Option<ProcessId>,
    /// What the daemon wrote to `subnet.env`.
    pub env: Option<SubnetEnv>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

const FILE: &str = "lab.json";

impl LabState {
    /// The state of a lab that has a name and an owner, and nothing else yet.
    pub(super) fn new(names: &Names, spec: &LabSpec) -> Self {
        let (name, owner) = (names.lab().to_owned(), ProcessId::own());
        let (mtu, registry, backend) = (spec.mtu, spec.registry, spec.backend());
        let (etcd, nodes, links) = Default::default();
        Self { name, owner, mtu, registry, backend, etcd, nodes, links }
    }

    /// Takes the name: creates the lab's directory, which must not exist, with this state in it.
    ///
    /// # Errors
    /// [`LabError::Exists`] when another lab has it.
    pub(super) fn claim(&self, names: &Names) -> Result<(), LabError> {
        // The directory appears with its file in it, so that it never exists without an owner.
        let fresh = Path::new(LABS_DIR).join(format!(".{}-{}", names.lab(), process::id()));
        fs::create_dir_all(&fresh).map_err(LabError::io(format!("create {}", fresh.display())))?;
        self.write(&fresh)?;
        fs::rename(&fresh, names.dir()).map_err(|source| {
            // Left over if this fails too, and harmless.
            drop(fs::remove_dir_all(&fresh));
            let taken = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::AlreadyExists];
            if taken.contains(&source.kind()) {
                return LabError::Exists { name: names.lab().to_owned() };
            }
            LabError::Io { what: format!("create {}", names.dir().display()), source }
        })
    }

    /// Replaces the lab's file with this state.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn save(&self, names: &Names) -> Result<(), LabError> {
        self.write(&names.dir())
    }

    fn write(&self, dir: &Path) -> Result<(), LabError> {
        let (fresh, path) = (dir.join(".lab.json"), dir.join(FILE));
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        json.and_then(|json| fs::write(&fresh, json))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Reads a lab's file.
    ///
    /// # Errors
    /// [`LabError::NoSuchLab`], or what reading failed with.
    pub fn load(names: &Names) -> Result<Self, LabError> {
        let path = names.dir().join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let known: Vec<String> =
                    all_labs().iter().map(|names| names.lab().to_owned()).collect();
                let (name, hint) = (names.lab().to_owned(), suggest::hint(names.lab(), &known));
                return Err(LabError::NoSuchLab { name, hint });
            }
            read => read.map_err(LabError::io(format!("read {}", path.display())))?,
        };
        let name = names.lab().to_owned();
        serde_json::from_str(&text)
            .map_err(|error| LabError::OtherVersion { name, why: error.to_string() })
    }

    /// Whether its owner died without removing it.
    pub fn is_orphan(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }

    /// The namespace of a node or pod, by its name within the lab.
    ///
    /// # Errors
    /// [`LabError::NoSuch`].
    pub fn netns(&self, name: &str) -> Result<&Netns, LabError> {
        let nodes = self.nodes.iter().map(|node| (&node.name, &node.netns));
        let pods = self.nodes.iter().flat_map(|node| &node.pods).map(|pod| (&pod.name, &pod.netns));
        let all: Vec<(&String, &Netns)> = nodes.chain(pods).collect();
        all.iter().find(|(known, _)| *known == name).map(|(_, netns)| *netns).ok_or_else(|| {
            let known: Vec<String> = all.iter().map(|(known, _)| (*known).clone()).collect();
            self.no_such("node or pod", name, &known)
        })
    }

    /// A node's place in [`nodes`](Self::nodes), by its name.
    ///
    /// # Errors
    /// [`LabError::NoSuch`].
    pub fn position(&self, node: &str) -> Result<usize, LabError> {
        let known: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let found = known.iter().position(|name| name == node);
        found.ok_or_else(|| self.no_such("node", node, &known))
    }

    pub(super) fn no_such(&self, what: &'static str, name: &str, known: &[String]) -> LabError {
        let (lab, name, hint) = (self.name.clone(), name.to_owned(), suggest::hint(name, known));
        LabError::NoSuch { lab, what, name, hint }
    }
}

/// The names of all labs on this machine.
pub fn all_labs() -> Vec<Names> {
    let entries = fs::read_dir(LABS_DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Names::new(entry.file_name().to_str()?).ok());
    let mut names: Vec<Names> = names.collect();
    names.sort_by(|a, b| a.lab().cmp(b.lab()));
    names
}
