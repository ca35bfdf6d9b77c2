//! [`Config`]: the daemon's settings as plain data. [`cli`](crate::control::cli) fills it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::time::Duration;

use super::backend::BackendType;
use super::etcd::EtcdConfig;
use super::kube::KubeConfig;
use crate::control::host::firewall::FirewallConfig;
use crate::control::host::iface::IfaceSpec;
use crate::control::util::url_user::hide_user;
use crate::dataplane::{Offloads, ThreadConfig};

/// The daemon's settings, parsed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where config and leases are stored.
    pub registry: RegistryKind,
    /// How to reach etcd, and the key prefix.
    pub etcd: EtcdConfig,
    /// Overrides the network config's `Backend.Type`.
    pub backend: Option<BackendType>,
    /// Overrides the overlay's MTU, in bytes.
    pub mtu: Option<u16>,
    /// External interfaces to try, in order; empty means that `public_ip`'s owner or the default
    /// route's is taken.
    pub ifaces: Vec<IfaceSpec>,
    /// What peers send to, if not the external interface's address.
    pub public_ip: Option<Ipv4Addr>,
    /// Where `subnet.env` is written.
    pub subnet_file: PathBuf,
    /// How long before its expiry the lease is renewed.
    pub renew_margin: Duration,
    /// What to do when somebody deletes the lease.
    pub on_lease_loss: OnLeaseLoss,
    /// Which rules are kept on this host.
    pub firewall: FirewallConfig,
    /// Where the health endpoint listens; `None` without one.
    pub healthz: Option<SocketAddr>,
    /// Whether the node is not ready while the registry does not answer.
    pub needs_registry: bool,
    /// Where the tools ask; `None` without a socket.
    pub socket: Option<PathBuf>,
    /// Workers of the data plane, 1 to 256.
    pub num_workers: usize,
    /// Offloads the data plane may use.
    pub offloads: Offloads,
    /// Whether flows may have different outer source ports.
    pub source_ports: SourcePorts,
    /// Whether the kernel may carry packets without the workers.
    pub fast_path: FastPathChoice,
    /// How the workers share the cores.
    pub threads: ThreadConfig,
    /// Log level: 0 info, 1 and 2 debug, 3 and up trace.
    pub verbosity: u8,
    /// The flags and variables that were given, as flags, without secrets.
    pub settings: String,
    /// Warnings about the command line and the environment, one line each.
    pub warnings: Vec<String>,
}

impl Config {
    /// The URLs of etcd's endpoints; none without etcd. Opening the registry reports what is wrong
    /// with them.
    pub(crate) fn etcd_urls(&self) -> Vec<String> {
        match self.registry {
            RegistryKind::Etcd => self.etcd.urls().unwrap_or_default(),
            RegistryKind::File(_) | RegistryKind::Kubernetes(_) => Vec::new(),
        }
    }
}

/// The socket of the daemon whose subnet file this is, unless it was given another:
/// `flanneld.sock` next to `subnet.env`, `NAME.sock` next to `NAME.env`.
pub fn default_socket(subnet_file: &Path) -> PathBuf {
    // Of a relative path the tools, which are started elsewhere, would not find the file.
    let subnet_file = absolute(subnet_file).unwrap_or_else(|_| subnet_file.to_owned());
    if subnet_file.file_name().is_some_and(|name| name == "subnet.env") {
        subnet_file.with_file_name("flanneld.sock")
    } else {
        subnet_file.with_extension("sock")
    }
}

/// Where config and leases are. Parses from `etcd` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryKind {
    /// The one that the etcd settings lead to.
    Etcd,
    /// The one in this file.
    File(PathBuf),
    /// The nodes of a Kubernetes cluster, and a file with the config.
    Kubernetes(Box<KubeConfig>),
}

/// A text that names no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither etcd nor file:PATH")]
pub struct UnknownRegistry(String);

impl FromStr for RegistryKind {
    type Err = UnknownRegistry;

    fn from_str(text: &str) -> Result<Self, UnknownRegistry> {
        match (text, text.strip_prefix("file:")) {
            ("etcd", _) => Ok(Self::Etcd),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(UnknownRegistry(hide_user(text))),
        }
    }
}

/// What to do when our lease is deleted before it expires. Parses from `reacquire` and `exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLeaseLoss {
    /// Create it again, unless another node has the subnet by then.
    #[default]
    Reacquire,
    /// Give it up, as stock does.
    Exit,
}

/// A text that is no [`OnLeaseLoss`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither reacquire nor exit")]
pub struct UnknownOnLeaseLoss(String);

impl FromStr for OnLeaseLoss {
    type Err = UnknownOnLeaseLoss;

    fn from_str(text: &str) -> Result<Self, UnknownOnLeaseLoss> {
        match text {
            "reacquire" => Ok(Self::Reacquire),
            "exit" => Ok(Self::Exit),
            _ => Err(UnknownOnLeaseLoss(text.to_owned())),
        }
    }
}

/// Which outer source ports are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePorts {
    /// Many towards peers whose lease allows it; our lease allows it to peers.
    Auto,
    /// The network's own port alone, in both directions.
    Shared,
}

/// A text that is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither auto nor shared")]
pub struct SourcePortsError(String);

impl FromStr for SourcePorts {
    type Err = SourcePortsError;

    fn from_str(text: &str) -> Result<Self, SourcePortsError> {
        match text {
            "auto" => Ok(Self::Auto),
            "shared" => Ok(Self::Shared),
            _ => Err(SourcePortsError(text.to_owned())),
        }
    }
}

/// What the operator says of the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastPathChoice {
    /// Where it is faster, and the kernel has what it takes.
    Auto,
    /// With XDP on the underlay, if its driver takes that; else as `Auto`.
    Xdp,
    /// Never.
    Off,
}

/// A text that is none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, xdp and off")]
pub struct FastPathChoiceError(String);

impl FromStr for FastPathChoice {
    type Err = FastPathChoiceError;

    fn from_str(text: &str) -> Result<Self, FastPathChoiceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "off" => Ok(Self::Off),
            _ => Err(FastPathChoiceError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_daemon_has_a_socket_of_its_own_as_it_has_a_subnet_file() {
        let socket = |file: &str| default_socket(Path::new(file));
        let path = Path::new("/run/flannel/flanneld.sock");
        assert_eq!(socket("/run/flannel/subnet.env"), path);
        assert_eq!(socket("/run/flannel/net2.env"), Path::new("/run/flannel/net2.sock"));
        assert!(socket("subnet.env").is_absolute());
    }
}
