//! `lab.json`: what a lab consists of, for commands that come later.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use super::LabError;
use super::host::netns::Netns;
use super::host::process::ProcessId;
use super::network::LabSpec;
use super::network::daemon::{Daemon, SubnetEnv};
use super::network::pods::Pod;
use super::network::registry::RegistryKind;
use super::network::topology::{LABS_DIR, Names};

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
    /// etcd's process, if it has one.
    pub etcd: Option<ProcessId>,
    /// Its nodes.
    pub nodes: Vec<NodeState>,
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
        let (mtu, registry) = (spec.mtu, spec.registry);
        Self { name, owner, mtu, registry, etcd: None, nodes: Vec::new() }
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
    pub(super) fn save(&self, names: &Names) -> Result<(), LabError> {
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
                return Err(LabError::NoSuchLab { name: names.lab().to_owned() });
            }
            read => read.map_err(LabError::io(format!("read {}", path.display())))?,
        };
        serde_json::from_str(&text)
            .map_err(|_| LabError::Unreadable { what: path.display().to_string(), text })
    }

    /// Whether its owner died without removing it.
    pub fn is_orphan(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }

    /// The namespace of a node or pod, by its name within the lab.
    ///
    /// # Errors
    /// [`LabError::NoSuchNode`].
    pub fn netns(&self, name: &str) -> Result<&Netns, LabError> {
        let nodes = self.nodes.iter().map(|node| (&node.name, &node.netns));
        let pods = self.nodes.iter().flat_map(|node| &node.pods).map(|pod| (&pod.name, &pod.netns));
        let all: Vec<(&String, &Netns)> = nodes.chain(pods).collect();
        all.iter().find(|(known, _)| *known == name).map(|(_, netns)| *netns).ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|(known, _)| known.as_str()).collect();
            let (lab, node) = (self.name.clone(), name.to_owned());
            LabError::NoSuchNode { lab, node, known: known.join(", ") }
        })
    }
}

/// The names of all labs on this machine.
pub fn all_labs() -> Vec<Names> {
    let entries = fs::read_dir(LABS_DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Names::new(entry.file_name().to_str()?).ok());
    names.collect()
}
