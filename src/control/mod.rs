//! WHO owns which subnet: the daemon around the data plane.
//!
//! [`run`] is start-up and shutdown as one list; each module below is one of its steps. This is
//! the only part of the program with an async runtime, of one thread: what it does is little, and
//! the cores belong to the workers.

pub mod cli;
pub mod node;
pub mod observe;
pub mod backend;
pub mod subnet;
pub mod config;
pub mod host;
pub mod conditions;
pub mod util;
mod error;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tracing::{info, warn};

use self::backend::{BackendSetup, UdpOptions};
use self::config::daemon::Config;
use self::config::daemon::RegistryKind;
use self::config::kube::KubeConfig;
use self::config::network::NetworkConfig;
pub use self::error::DaemonError;
use self::host::iface::{ExternalInterface, IfaceChoice};
use self::host::{iface, overlap, preflight};
use self::node::signals::{Asked, Signals};
use self::node::status::{BEAT, Loop, SharedStatus};
use self::node::subnet_env;
use self::node::supervisor::Node;
use self::observe::socket::SocketFile;
use self::subnet::SubnetManager;
use self::subnet::host_id::HostId;
use self::subnet::kube::manager::{KubeError, KubeManager, KubeSettings};
use self::subnet::kv::manager::{KvManager, KvSettings};
use self::subnet::kv::registry::Registry;
use self::subnet::kv::registry::any_etcd::AnyEtcd;
use self::subnet::kv::registry::file::FileRegistry;
use self::subnet::kv::renew::KeepPolicy;
use self::subnet::kv::state_file::StateFile;
use self::util::build_info;
use self::util::panics;
use self::util::systemd::notify;
use crate::control::host::net;
use crate::control::host::net::Netlink;

/// Runs the daemon until SIGINT or SIGTERM stops it, which is never an error.
///
/// The order is that of flannel's `main.go`. Where a step fails or is interrupted, what the steps
/// before it made is dropped in reverse: the overlay device goes, with its address and route.
///
/// # Errors
/// [`DaemonError`] if the node cannot take part in the overlay.
pub fn run(config: Config) -> Result<(), DaemonError> {
    panics::install();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Runtime)?;
    let live = || {
        runtime.block_on(async {
            match &config.registry {
                RegistryKind::Etcd => {
                    let registry = AnyEtcd::connect(&config.etcd).await?;
                    run_with(&config, kv_manager(&config, &registry)).await
                }
                RegistryKind::File(path) => {
                    let registry = FileRegistry::new(path);
                    run_with(&config, kv_manager(&config, &registry)).await
                }
                RegistryKind::Kubernetes(kube) => {
                    run_with(&config, kube_manager(&config, kube)?).await
                }
            }
        })
    };
    // A panic on this thread has dropped all that `live` made by the time it is caught.
    let result = catch_unwind(AssertUnwindSafe(live));
    let result = result.unwrap_or_else(|_| Err(panics::last().unwrap_or_default().into()));
    runtime.shutdown_timeout(LAST_WRITE_TIMEOUT);
    result
}

/// How long shutdown waits for a file that is being written. A disk or a name server that does not
/// answer must not delay it.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// The life of the daemon once its lease source is known.
async fn run_with<M: SubnetManager>(config: &Config, manager: M) -> Result<(), DaemonError> {
    // 1. Checks of settings and host, before anything is changed.
    preflight::check_net_admin()?;
    backend::preflight(config.backend)?;
    if let Some(addr) = config.healthz {
        observe::check_addr(addr)?;
    }
    // A mistake above is the only line.
    info!("flanneld {} starts: {}", build_info::version_line(), config.settings);
    for note in &config.warnings {
        warn!("{note}");
    }
    // 2. From here on a signal causes an orderly shutdown.
    let mut signals = Signals::install()?;
    // 3. The health endpoint and the tools' socket, not ready yet.
    let health = Arc::new(SharedStatus::default());
    health.enter("starting");
    if let Some(addr) = config.healthz {
        observe::start(addr, Arc::clone(&health))?;
    }
    let _socket = config.socket.as_deref().and_then(|path| open_socket(path, &health));
    // 4. The node, until it fails or a signal stops it.
    let result = run_until_stopped(config, manager, &health, &mut signals).await;
    // 5. By now the node is dropped, with its workers, sockets and device.
    if result.is_ok() {
        info!("Exiting cleanly...");
    }
    result
}

/// Opens the socket that the tools ask. Packets flow without it as well.
fn open_socket(path: &Path, health: &Arc<SharedStatus>) -> Option<SocketFile> {
    let opened = observe::socket::start(path, Arc::clone(health));
    opened.map_err(|error| warn!("no socket for flanneld status and other tools: {error}")).ok()
}

/// Runs the node until it fails or a signal arrives. A second SIGINT or SIGTERM kills the daemon.
async fn run_until_stopped<M: SubnetManager>(
    config: &Config,
    manager: M,
    health: &SharedStatus,
    signals: &mut Signals,
) -> Result<(), DaemonError> {
    let mut node = pin!(join(config, manager, health));
    let mut beats = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            biased;
            panicked = panics::heard() => return Err(panicked.into()),
            asked = signals.next() => match asked {
                Asked::Stop(signal) => {
                    info!("{signal} received, stopping");
                    notify(&[NotifyState::Stopping]);
                    return Ok(());
                }
                Asked::Reload(signal) => {
                    info!(
                        "{signal} received: settings are read at the start only, restart flanneld \
                         to change them; {}",
                        health.line()
                    );
                    health.ask_for_check();
                }
                Asked::Status(signal) => info!("{signal} received: {}", health.line()),
            },
            _ = beats.tick() => health.beat(Loop::Daemon),
            end = &mut node => return end.map(|never| match never {}),
        }
    }
}

/// Finds out by which interface this node joins and what network it is, then lives in it.
async fn join<M: SubnetManager>(
    config: &Config,
    mut manager: M,
    health: &SharedStatus,
) -> Result<Infallible, DaemonError> {
    // 4a. The external interface, if it was named: a wrong name is better noticed before a long
    //     wait. The default route may still be to come, as etcd is, when the host is booting.
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    let is_named = !config.ifaces.is_empty() || config.public_ip.is_some();
    let named = if is_named { Some(external_interface(config, &net, None).await?) } else { None };
    // 4b. The subnet we had, and the network config: waited for, however long it takes, unless both
    //     were saved.
    info!("Created subnet manager: {}", manager.name());
    health.enter("waiting for the network config");
    let public_ip = async || match &named {
        Some(iface) => Some(iface.public_ip),
        None => external_interface(config, &net, None).await.ok().map(|iface| iface.public_ip),
    };
    let network = manager.config(public_ip).await;
    let from_source = manager.public_ip();
    let iface = match named.filter(|_| from_source.is_none()) {
        Some(iface) => iface,
        None => external_interface(config, &net, from_source).await?,
    };
    info!("Found network config - Backend type: {}", network.backend.backend_type());
    if let Some(warning) = network.warning() {
        warn!("{warning}");
    }
    // 4c. Whether the Network leaves the underlay in reach. The names of an etcd that does not
    //     answer are not looked up: that would delay the start.
    let endpoints = if manager.is_reachable() {
        overlap::endpoints(&config.etcd_urls()).await
    } else {
        Vec::new()
    };
    for warning in overlap::check(&net, network.v4.network, &iface, &endpoints, &[]).await? {
        warn!("{warning}");
    }
    // 4d. Lease, overlay device, workers; then rules, subnet.env and READY=1, with peers served.
    let interface = iface.name.clone();
    let driver = backend::create(backend_setup(config, network.clone(), iface, from_source));
    let node = Node {
        interface,
        network,
        previous: manager.previous(),
        subnet_file: &config.subnet_file,
        firewall: config.firewall,
        needs_registry: config.needs_registry,
        watches_host: true,
        health,
    };
    Ok(node.live(manager, driver).await?)
}

/// The manager of leases in a Kubernetes cluster.
fn kube_manager<'a>(config: &Config, kube: &'a KubeConfig) -> Result<KubeManager<'a>, KubeError> {
    let settings = KubeSettings {
        backend: config.backend,
        subnet_file: &config.subnet_file,
        in_use: subnet_env::previous_subnets(&config.subnet_file),
    };
    KubeManager::new(kube, settings)
}

/// The manager of leases in `registry`.
fn kv_manager<'a, R: Registry>(config: &Config, registry: &'a R) -> KvManager<'a, R> {
    let kind = match config.registry {
        RegistryKind::File(_) => "File",
        // Kubernetes mode has a manager of its own.
        RegistryKind::Etcd | RegistryKind::Kubernetes(_) => "Etcd",
    };
    let state = StateFile::next_to(&config.subnet_file, registry.name_in_state());
    let settings = KvSettings {
        kind,
        backend: config.backend,
        in_use: subnet_env::previous_subnets(&config.subnet_file),
        state: state.at(&config.etcd_urls()),
        policy: KeepPolicy { margin: config.renew_margin, on_loss: config.on_lease_loss },
    };
    KvManager::new(registry, settings)
}

/// What the backend is made from: flags, network config and interface.
/// `public_ip` is the lease source's, which wins over the flag.
fn backend_setup(
    config: &Config,
    network: NetworkConfig,
    iface: ExternalInterface,
    public_ip: Option<Ipv4Addr>,
) -> BackendSetup {
    let udp = UdpOptions {
        num_workers: config.num_workers,
        offloads: config.offloads,
        source_ports: config.source_ports,
        fast_path: config.fast_path,
        host: HostId::of(&config.subnet_file),
        threads: config.threads,
    };
    let public_ip = public_ip.or(config.public_ip);
    let choice = IfaceChoice { specs: config.ifaces.clone(), public_ip };
    BackendSetup { iface, choice, network, mtu: config.mtu, udp }
}

async fn external_interface(
    config: &Config,
    net: &Netlink,
    public_ip: Option<Ipv4Addr>,
) -> Result<ExternalInterface, DaemonError> {
    let host = iface::read(net, &config.ifaces).await?;
    Ok(iface::select(&host, &config.ifaces, public_ip.or(config.public_ip))?)
}
