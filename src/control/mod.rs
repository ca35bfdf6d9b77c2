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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tracing::{info, warn};

use self::backend::{BackendSetup, UdpOptions};
use self::config::daemon::Config;
use self::config::daemon::RegistryKind;
use self::config::network::NetworkConfig;
pub use self::error::DaemonError;
use self::host::iface::{ExternalInterface, IfaceChoice};
use self::host::{iface, overlap, preflight};
use self::node::signals::{Asked, Signals};
use self::node::state_file::{Past, Remembered, StateFile};
use self::node::status::{BEAT, Loop, SharedStatus};
use self::node::subnet_env;
use self::node::supervisor::Node;
use self::subnet::host_id::HostId;
use self::subnet::kv::config_wait::{ConfigWait, FoundConfig, NotYet, POLL_INTERVAL, read_config};
use self::subnet::kv::registry::Registry;
use self::subnet::kv::registry::any_etcd::AnyEtcd;
use self::subnet::kv::registry::file::FileRegistry;
use self::subnet::kv::renew::KeepPolicy;
use self::util::log_limit::LogLimit;
use self::util::panics;
use self::util::systemd::notify;
use crate::control::host::net;
use crate::control::host::net::Netlink;

/// Runs the daemon until SIGINT or SIGTERM asks it to stop, which is no error at any moment.
///
/// The order is that of flannel's `main.go`. Where a step fails or is interrupted, what the steps
/// before it made is dropped in reverse: the overlay device goes, with its address and route.
///
/// # Errors
/// [`DaemonError`] for whatever keeps the node from its part in the overlay.
pub fn run(config: Config) -> Result<(), DaemonError> {
    panics::install();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Runtime)?;
    let live = || {
        runtime.block_on(async {
            match &config.registry {
                RegistryKind::Etcd => {
                    let registry = AnyEtcd::connect(&config.etcd).await?;
                    run_with(&config, &registry).await
                }
                RegistryKind::File(path) => run_with(&config, &FileRegistry::new(path)).await,
            }
        })
    };
    // A panic on this thread has dropped all that `live` made by the time it is caught.
    let result = catch_unwind(AssertUnwindSafe(live));
    let result = result.unwrap_or_else(|_| Err(panics::last().unwrap_or_default().into()));
    runtime.shutdown_timeout(LAST_WRITE_TIMEOUT);
    result
}

/// How long the end of the daemon waits for a file that is being written. A disk or a name server
/// that does not answer must not hold it up.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// The life of the daemon once its registry is known.
async fn run_with<R: Registry>(config: &Config, registry: &R) -> Result<(), DaemonError> {
    // 1. What the operator and the host got wrong, before anything is touched.
    preflight::check_net_admin()?;
    backend::preflight(config.backend)?;
    for note in &config.notes {
        warn!("{note}");
    }
    // 2. From here on a signal ends us in good order.
    let mut signals = Signals::install()?;
    // 3. The health endpoint, not ready yet.
    let health = Arc::new(SharedStatus::default());
    health.enter("starting");
    if let Some(addr) = config.healthz {
        observe::start(addr, Arc::clone(&health))?;
    }
    // 4. The node, until it fails or a signal stops it.
    let result = run_until_stopped(config, registry, &health, &mut signals).await;
    // 5. The node is gone by now, and with it workers, sockets and device.
    if result.is_ok() {
        info!("Exiting cleanly...");
    }
    result
}

/// The node's life, and what may happen to the daemon meanwhile. Of two signals that ask for the
/// end the second kills.
async fn run_until_stopped<R: Registry>(
    config: &Config,
    registry: &R,
    health: &SharedStatus,
    signals: &mut Signals,
) -> Result<(), DaemonError> {
    let mut node = pin!(join(config, registry, health));
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
                Asked::Reload(signal) => info!(
                    "{signal} received: settings are read at the start only, restart flanneld to \
                     change them; {}",
                    health.line()
                ),
                Asked::Status(signal) => info!("{signal} received: {}", health.line()),
            },
            _ = beats.tick() => health.beat(Loop::Daemon),
            end = &mut node => return end.map(|never| match never {}),
        }
    }
}

/// Finds out by which interface this node joins and what network it is, then lives in it.
async fn join<R: Registry>(
    config: &Config,
    registry: &R,
    health: &SharedStatus,
) -> Result<Infallible, DaemonError> {
    // 4a. The external interface, if it was named: a wrong name is better noticed before a long
    //     wait. The default route may still be to come, as etcd is, when the host is booting.
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    let is_named = !config.ifaces.is_empty() || config.public_ip.is_some();
    let named = if is_named { Some(external_interface(config, &net).await?) } else { None };
    // 4b. The subnet we had, and the network config: waited for, however long it takes, unless we
    //     remember both.
    let previous = previous_subnet(config, registry);
    let shown = previous.map_or("None".to_owned(), |subnet| subnet.to_string());
    let kind = match config.registry {
        RegistryKind::Etcd => "Etcd",
        RegistryKind::File(_) => "File",
    };
    info!("Created subnet manager: {kind} Local Manager with Previous Subnet: {shown}");
    health.enter("waiting for the network config");
    let state = state_file(config, registry);
    let (found, iface, past) = find_network(config, registry, &net, named, &state).await?;
    let network = found.network;
    info!("Found network config - Backend type: {}", network.backend.backend_type());
    if let Some(warning) = network.warning() {
        warn!("{warning}");
    }
    // 4c. Whether the Network leaves the underlay in reach. The names of an etcd that does not
    //     answer are not looked up: that would delay the start.
    let endpoints =
        if past.is_none() { overlap::endpoints(&config.etcd_urls()).await } else { Vec::new() };
    for warning in overlap::check(&net, network.v4.network, &iface, &endpoints, &[]).await? {
        warn!("{warning}");
    }
    // 4d. Lease, overlay device, workers; then rules, subnet.env and READY=1, with peers served.
    let node = Node {
        registry,
        network,
        backend_override: config.backend,
        config_text: &found.text,
        previous,
        in_use: subnet_env::previous_subnet(&config.subnet_file),
        rival: None,
        past,
        state: &state,
        subnet_file: &config.subnet_file,
        keep: KeepPolicy { margin: config.renew_margin, on_loss: config.on_lease_loss },
        firewall: config.firewall,
        health,
    };
    let driver = backend::create(backend_setup(config, node.network.clone(), iface));
    Ok(node.live(driver).await?)
}

/// What the backend is made from: flags, network config and interface.
fn backend_setup(
    config: &Config,
    network: NetworkConfig,
    iface: ExternalInterface,
) -> BackendSetup {
    let udp = UdpOptions {
        num_workers: config.num_workers,
        offloads: config.offloads,
        source_ports: config.source_ports,
        host: HostId::of(&config.subnet_file),
        threads: config.threads,
    };
    let choice = IfaceChoice { specs: config.ifaces.clone(), public_ip: config.public_ip };
    BackendSetup { iface, choice, network, mtu: config.mtu, udp }
}

fn state_file<R: Registry>(config: &Config, registry: &R) -> StateFile {
    let state = StateFile::beside(&config.subnet_file, registry.name_in_state());
    state.at(&config.etcd_urls())
}

/// The subnet this node had: subnet.env says so or, where that is gone, the state file.
fn previous_subnet<R: Registry>(config: &Config, registry: &R) -> Option<Ipv4Network> {
    let previous = subnet_env::previous_subnet(&config.subnet_file);
    previous.or_else(|| state_file(config, registry).own_subnet())
}

/// How long the registry may take to answer before we start with what we remember.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The network config, the external interface, and our past if the registry is not there to ask.
///
/// A registry that answers is believed: only it knows whether the config is another by now.
async fn find_network<R: Registry>(
    config: &Config,
    registry: &R,
    net: &Netlink,
    named: Option<ExternalInterface>,
    state: &StateFile,
) -> Result<(FoundConfig, ExternalInterface, Option<Past>), DaemonError> {
    // Where subnet.env is gone, so is what containers use: the registry is to be asked.
    let previous = subnet_env::previous_subnet(&config.subnet_file);
    let mut log = LogLimit::default();
    let mut wait = ConfigWait::default();
    let mut first = Some(read_config(registry, config.backend));
    let found = loop {
        let read = match first.take() {
            Some(first) => timeout(FIRST_ANSWER_TIMEOUT, first).await,
            None => Ok(wait.attempt(registry, config.backend).await),
        };
        match read {
            Ok(Ok(found)) => break found,
            Ok(Err(NotYet::Missing { .. } | NotYet::Invalid { .. })) => {}
            // As often as the registry fails: the interface may be late, or the clock be set.
            Ok(Err(NotYet::Registry(_))) | Err(_) => {
                let iface = match &named {
                    Some(iface) => Some(iface.clone()),
                    None => external_interface(config, net).await.ok(),
                };
                if let Some(iface) = iface
                    && let Some(Remembered { config: found, past, .. }) = state
                        .recall(registry, previous, config.backend, iface.public_ip, &mut log)
                        .await
                {
                    return Ok((found, iface, Some(past)));
                }
            }
        }
        if wait.has_waited() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let iface = match named {
        Some(iface) => iface,
        None => external_interface(config, net).await?,
    };
    Ok((found, iface, None))
}

async fn external_interface(
    config: &Config,
    net: &Netlink,
) -> Result<ExternalInterface, DaemonError> {
    let host = iface::read(net, &config.ifaces).await?;
    Ok(iface::select(&host, &config.ifaces, config.public_ip)?)
}
