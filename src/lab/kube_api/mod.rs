//! [`KubeApi`]: a double of a Kubernetes API server, with nodes and pods and nothing else.
//!
//! It has real resource versions, lists in pages, watches with bookmarks and 410 Gone, strategic
//! merges of annotations and conditions, and a log of its requests. Unit tests and labs both use it.
//! What a real one does not have is below `/double/`:
//!
//! | request | effect |
//! |---|---|
//! | `PUT /double/faults` | how it misbehaves from now on: [`Faults`] as JSON |
//! | `POST /double/nodes` | many nodes at once |
//! | `POST /double/pods` | pods: a list of namespace, name and node |
//! | `POST /double/compact` | no watch can go on from an older version |
//! | `POST /double/drop` | every watch breaks off |
//! | `POST /double/forget` | it loses all nodes, and its versions begin again |
//! | `GET /double/requests` | all requests so far |

mod answer;
mod faults;
mod patch;
mod routes;
mod server;
mod store;
mod stored;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio_rustls::TlsAcceptor;

pub use self::faults::Faults;
pub use self::store::Seen;
use self::store::Store;
pub(super) use self::stored::run;

/// An API server. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct KubeApi {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    store: Mutex<Store>,
    /// Changes whenever the store does.
    news: channel::Sender<u64>,
    /// Where the nodes are kept, if they are to outlive the process.
    file: OnceLock<PathBuf>,
}

impl KubeApi {
    /// Answers every request that comes, for ever.
    pub async fn serve(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        server::serve(self, listener, tls).await;
    }

    /// Adds a node, or replaces one.
    pub fn put_node(&self, node: Value) {
        self.change(|store| store.put(node));
    }

    /// Adds a node with these ranges for its pods and one annotation, as flannel's own tests do.
    pub fn add_node(&self, name: &str, pod_cidrs: &[&str]) {
        self.put_node(json!({
            "metadata": { "name": name, "annotations": { "dummy": "value" } },
            "spec": { "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs },
        }));
    }

    /// Merges a patch into a node, as an operator would.
    pub fn patch_node(&self, name: &str, patch: &Value) {
        self.change(|store| drop(store.patch(name, patch)));
    }

    /// Removes a node.
    pub fn delete_node(&self, name: &str) {
        self.change(|store| drop(store.delete(name)));
    }

    /// A node as it is now; `null` if there is none.
    pub fn node(&self, name: &str) -> Value {
        self.store().node(name).cloned().unwrap_or_default()
    }

    /// Says on which node a pod runs.
    pub fn put_pod(&self, namespace: &str, name: &str, node: &str) {
        self.store().put_pod(namespace, name, node);
    }

    /// Misbehaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.change(|store| store.faults = faults);
    }

    /// Lets no watch go on from an older version.
    pub fn compact(&self) {
        self.change(Store::compact);
    }

    /// Breaks off every watch.
    pub fn drop_watches(&self) {
        self.change(|store| store.num_drops += 1);
    }

    /// Loses all nodes; versions begin again.
    pub fn forget(&self) {
        self.change(Store::forget);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.store().requests.clone()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store());
        self.save();
        self.shared.news.send_modify(|news| *news += 1);
        result
    }
}
