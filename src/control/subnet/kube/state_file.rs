//! The state file: what this node knew of the cluster when it last ran.
//!
//! It is in the directory of subnet.env (`subnet.state.json` for `subnet.env`) and lets a node start
//! while the API server is away, with the podCIDR it had and the peers it knew.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use crate::control::config::kube::AnnotationPrefix;
use crate::control::subnet::lease::{Lease, LeaseAttrs};
use crate::control::util::atomic_file::{FileError, read_file, replace_file};
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;
use crate::routes::Prefix;

/// How long a change waits for others that come with it.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Least time between two writes: in a large cluster some node changes all the time.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Where the state is kept, and whose it is.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// What the file calls its source: no other source of leases takes it for its own.
    registry: String,
}

/// The cluster as this node last knew it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// Our node.
    pub(super) node: String,
    /// What its annotation says of our public IP.
    pub(super) node_public_ip: Option<Ipv4Addr>,
    /// Our lease.
    pub(super) own: Lease,
    /// The others', by their nodes' names.
    pub(super) peers: BTreeMap<String, Lease>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    registry: String,
    node: String,
    node_public_ip: Option<Ipv4Addr>,
    own: Entry,
    peers: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    subnet: String,
    ipv6_subnet: Option<String>,
    attrs: Box<RawValue>,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error("it is not a state that flanneld writes: {0}")]
    Json(serde_json::Error),
    #[error("it is of {0}")]
    OtherSource(String),
    #[error("it has a lease that does not read")]
    Lease,
}

impl StateFile {
    /// The file that belongs to the subnet.env at `subnet_file`.
    pub(super) fn next_to(subnet_file: &Path, prefix: &AnnotationPrefix) -> Self {
        let registry = format!("kubernetes {}", prefix.as_str());
        Self { path: subnet_file.with_extension("state.json"), registry }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The state, if there is one that can be used. Says in one line why not.
    pub(super) fn load(&self) -> Option<State> {
        let text = match read_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read.map_err(StateError::Read),
        };
        match text.and_then(|text| self.parse(&text)) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!("{} is of no use: {error}", self.path.display());
                None
            }
        }
    }

    fn parse(&self, text: &[u8]) -> Result<State, StateError> {
        let document: Document = serde_json::from_slice(text).map_err(StateError::Json)?;
        if document.registry != self.registry {
            return Err(StateError::OtherSource(document.registry));
        }
        let peers = document.peers.into_iter().map(|(name, entry)| Some((name, entry.lease()?)));
        Ok(State {
            node: document.node,
            node_public_ip: document.node_public_ip,
            own: document.own.lease().ok_or(StateError::Lease)?,
            peers: peers.collect::<Option<_>>().ok_or(StateError::Lease)?,
        })
    }

    /// The state as the text of its file.
    fn text(
        &self,
        node: (&str, Option<Ipv4Addr>),
        own: &Lease,
        peers: &BTreeMap<String, Lease>,
    ) -> serde_json::Result<String> {
        let entries = peers.iter().map(|(name, lease)| Ok((name.clone(), Entry::of(lease)?)));
        let document = Document {
            registry: self.registry.clone(),
            node: node.0.to_owned(),
            node_public_ip: node.1,
            own: Entry::of(own)?,
            peers: entries.collect::<serde_json::Result<_>>()?,
        };
        serde_json::to_string_pretty(&document)
    }
}

impl Entry {
    fn of(lease: &Lease) -> serde_json::Result<Self> {
        Ok(Self {
            subnet: lease.subnet.to_string(),
            ipv6_subnet: lease.ipv6_subnet.map(|it| it.to_string()),
            attrs: RawValue::from_string(lease.attrs.to_json())?,
        })
    }

    fn lease(self) -> Option<Lease> {
        let ipv6_subnet = self.ipv6_subnet.map(|text| Ipv6Network::parse(&text)).transpose();
        Some(Lease {
            subnet: Ipv4Network::parse(&self.subnet).ok()?,
            ipv6_subnet: ipv6_subnet.ok()?,
            attrs: LeaseAttrs::from_json(self.attrs.get().as_bytes()).ok()?,
            expires: None,
        })
    }
}

/// Keeps the state file up to date. The disk is left to another thread.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    file: &'a StateFile,
    due: Option<Instant>,
    not_before: Instant,
    running: Option<JoinHandle<Result<(), FileError>>>,
    log: LogLimit,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(file: &'a StateFile) -> Self {
        let (not_before, log) = (Instant::now(), LogLimit::default());
        Self { file, due: None, not_before, running: None, log }
    }

    /// Takes note that the state has changed.
    pub(super) fn schedule(&mut self) {
        let soon = self.not_before.max(Instant::now() + SETTLE_TIME);
        self.due.get_or_insert(soon);
    }

    /// Waits until the state is to be written.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn due(&mut self) {
        if let Some(running) = &mut self.running {
            let written = running.await;
            self.running = None;
            if let Ok(Err(error)) = written
                && self.log.is_due("save")
            {
                let error = error_chain(&error);
                tracing::warn!("cannot save the state for the next start: {error}");
            }
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the state, in the background.
    pub(super) fn write(
        &mut self,
        node: (&str, Option<Ipv4Addr>),
        own: &Lease,
        peers: &BTreeMap<String, Lease>,
    ) {
        self.due = None;
        self.not_before = Instant::now() + WRITE_INTERVAL;
        // Texts and numbers can always be written.
        let Ok(text) = self.file.text(node, own, peers) else { return };
        let path = self.file.path.clone();
        self.running = Some(spawn_blocking(move || replace_file(&path, &text)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::util::test_log::Logs;

    fn lease(subnet: &str, ip: [u8; 4]) -> Lease {
        let attrs = LeaseAttrs::udp(ip.into()).with_data(Some(json!({ "VNI": 1 })));
        let ipv6_subnet = Some("fd00:2::/64".parse().unwrap());
        Lease { subnet: subnet.parse().unwrap(), ipv6_subnet, attrs, expires: None }
    }

    #[tokio::test]
    async fn what_is_written_is_loaded_and_nobody_elses() {
        let logs = Logs::capture();
        let directory = tempfile::tempdir().unwrap();
        let env = directory.path().join("subnet.env");
        let file = StateFile::next_to(&env, &"flannel.alpha.coreos.com".parse().unwrap());
        assert_eq!(file.load(), None);
        let state = State {
            node: "nodea".to_owned(),
            node_public_ip: Some([192, 0, 2, 9].into()),
            own: lease("10.244.1.0/24", [192, 0, 2, 1]),
            peers: [("nodeb".to_owned(), lease("10.244.2.0/24", [192, 0, 2, 2]))].into(),
        };
        let mut recorder = Recorder::new(&file);
        recorder.schedule();
        recorder.due().await;
        recorder.write((&state.node, state.node_public_ip), &state.own, &state.peers);
        let ended = tokio::time::timeout(Duration::from_millis(100), recorder.due()).await;
        assert!(ended.is_err(), "there is nothing more to write");
        while !file.path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(file.load(), Some(state));
        let other = StateFile::next_to(&env, &"example.com".parse().unwrap());
        assert_eq!(other.load(), None);
        assert_eq!(logs.count("is of no use: it is of kubernetes flannel.alpha.coreos.com/"), 1);
        std::fs::write(&file.path, "{").unwrap();
        assert_eq!((file.load(), logs.count("it is not a state that flanneld writes")), (None, 1));
    }
}
