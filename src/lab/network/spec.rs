//! [`LabSpec`]: what a lab should be like.

use std::collections::BTreeMap;
use std::iter;
use std::path::PathBuf;

use super::backend::Backend;
use super::daemon::Daemon;
use super::registry::RegistryKind;
use crate::lab::LabError;

/// What a lab should be like.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// Its name, which names its namespaces too.
    pub name: String,
    /// Nodes at the start.
    pub num_nodes: usize,
    /// Pods on each node.
    pub num_pods: usize,
    /// MTU of the underlay, in bytes.
    pub mtu: u16,
    /// Where its nodes find their config and keep their leases.
    pub registry: RegistryKind,
    /// Network config for the registry; `None` leaves it unwritten.
    pub config: Option<String>,
    /// This package's second binary, which is the API server of [`RegistryKind::Kube`].
    pub flannel_lab: PathBuf,
    /// What the nodes run.
    pub daemon: Daemon,
    /// What single nodes run instead, by their names.
    pub daemons: BTreeMap<String, Daemon>,
    /// Whether the underlay carries no superpackets.
    pub frames_only: bool,
}

/// A network config such as flannel's documentation shows.
pub const DEFAULT_CONFIG: &str = r#"{"Network":"10.5.0.0/16"}"#;

/// A daemon whose help names this flag takes a file for its registry; stock's does not.
const REGISTRY_FLAG: &str = "-registry";

/// A daemon whose help names this flag can run in Kubernetes mode.
const KUBE_FLAG: &str = "-kube-subnet-mgr";

impl LabSpec {
    /// Three nodes with one pod each, on an underlay of 1500 bytes, all running `daemon`.
    pub fn new(name: impl Into<String>, daemon: Daemon) -> Self {
        Self {
            name: name.into(),
            num_nodes: 3,
            num_pods: 1,
            mtu: 1500,
            registry: RegistryKind::default(),
            config: Some(DEFAULT_CONFIG.to_owned()),
            flannel_lab: daemon.program.with_file_name("flannel-lab"),
            daemon,
            daemons: BTreeMap::new(),
            frames_only: false,
        }
    }

    /// The backend that its config names.
    pub fn backend(&self) -> Backend {
        self.config.as_deref().map_or_else(Backend::default, Backend::of)
    }

    /// Refuses daemons that cannot work with the backend or the registry.
    pub(super) fn check_daemons(&self) -> Result<(), LabError> {
        let mut daemons = iter::once(&self.daemon).chain(self.daemons.values());
        if self.backend() != Backend::Udp && daemons.clone().any(Daemon::is_stock_emulator) {
            return Err(LabError::NeedsUdp(self.backend()));
        }
        let flag = match self.registry {
            RegistryKind::Etcd => return Ok(()), // every flanneld can
            RegistryKind::File => REGISTRY_FLAG,
            RegistryKind::Kube => KUBE_FLAG,
        };
        match daemons.find(|daemon| !daemon.knows(flag)) {
            Some(daemon) => Err(LabError::NeedsEtcd { program: daemon.program.clone() }),
            None => Ok(()),
        }
    }

    /// What the node of this name runs.
    pub fn daemon_of(&self, node: &str) -> Daemon {
        self.daemons.get(node).unwrap_or(&self.daemon).clone()
    }
}
