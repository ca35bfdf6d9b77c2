//! [`DaemonError`]: why the daemon ended by itself.

use std::io;

use super::backend::BackendError;
use super::config::etcd::EtcdConfigError;
use super::host::iface::IfaceError;
use super::host::net::KernelError;
use super::host::overlap::OverlapError;
use super::host::preflight::PreflightError;
use super::node::error::NodeError;
use super::node::signals::SignalError;
use super::observe::HealthError;
use super::subnet::kube::manager::KubeError;
use super::util::panics::Panicked;

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its source says")]
pub enum DaemonError {
    #[error("start the async runtime")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Etcd(#[from] EtcdConfigError),
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error(transparent)]
    SharedStatus(#[from] HealthError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Iface(#[from] IfaceError),
    #[error(transparent)]
    Overlap(#[from] OverlapError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Panicked(#[from] Panicked),
}
