//! `--config-check`: what flanneld would do on this host, without changing anything.

use std::error::Error;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use serde::{Serialize, Serializer};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::control::backend;
use crate::control::config::daemon::Config;
use crate::control::config::daemon::RegistryKind;
use crate::control::config::network::NetworkConfig;
use crate::control::host::iface::ExternalInterface;
use crate::control::host::net;
use crate::control::host::{overlap, preflight};
use crate::control::subnet::SubnetManager;
use crate::control::subnet::kube::check::ClusterView;
use crate::control::subnet::kube::manager::KubeManager;
use crate::control::subnet::kv::acquire::{choose_own, is_reusable};
use crate::control::subnet::kv::config_wait::read_config;
use crate::control::subnet::kv::registry::any_etcd::AnyEtcd;
use crate::control::subnet::kv::registry::file::FileRegistry;
use crate::control::subnet::kv::registry::{Registry, Scope};
use crate::control::util::error_chain::error_chain;
use crate::control::{
    DaemonError, backend_setup, external_interface, kube_manager, kv_manager, observe,
};

/// How long the registry may take to answer, each time.
const DEADLINE: Duration = Duration::from_secs(5);

/// What flanneld would do, and what keeps it from that. Prints as a table; serialises to the JSON
/// of `--json`: `{"plan": {…}, "warnings": […], "problems": […]}`, where all values are texts.
#[derive(Debug, Default, Serialize)]
pub struct CheckReport {
    /// Each step by name, in flanneld's order.
    #[serde(serialize_with = "as_map")]
    plan: Vec<(&'static str, String)>,
    /// What is not followed.
    warnings: Vec<String>,
    /// Why it would not start, or would have to wait.
    problems: Vec<String>,
}

/// Checks flags, host and network config. Changes nothing.
///
/// # Errors
/// [`DaemonError::Runtime`]; all else is part of the report.
pub fn check(config: &Config) -> Result<CheckReport, DaemonError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Runtime)?;
    let report = runtime.block_on(async {
        let mut report =
            CheckReport { warnings: config.warnings.clone(), ..CheckReport::default() };
        report.take(preflight::check_net_admin());
        let iface = report.take(interface(config, None).await);
        if let Some(addr) = config.healthz {
            report.take(observe::check_addr(addr));
        }
        match &config.registry {
            RegistryKind::Etcd => match timeout(DEADLINE, AnyEtcd::connect(&config.etcd)).await {
                Ok(connected) => {
                    if let Some(registry) = report.take(connected) {
                        report.overlay(config, &registry, iface.as_ref()).await;
                    }
                }
                Err(_) => report.problems.push(format!("etcd does not answer within {DEADLINE:?}")),
            },
            RegistryKind::File(path) => {
                report.overlay(config, &FileRegistry::new(path), iface.as_ref()).await;
            }
            RegistryKind::Kubernetes(kube) => {
                if let Some(manager) = report.take(kube_manager(config, kube)) {
                    report.cluster(config, &manager, iface.as_ref()).await;
                }
            }
        }
        report
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    Ok(report)
}

/// `public_ip` is the lease source's, which wins over the flag.
async fn interface(
    config: &Config,
    public_ip: Option<Ipv4Addr>,
) -> Result<ExternalInterface, DaemonError> {
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    external_interface(config, &net, public_ip).await
}

impl CheckReport {
    /// What is wrong, a line each; nothing if flanneld would start.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Checks the network config and everything that depends on it.
    async fn overlay<R: Registry>(
        &mut self,
        config: &Config,
        registry: &R,
        iface: Option<&ExternalInterface>,
    ) {
        let found = match timeout(DEADLINE, read_config(registry, config.backend)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(problem)) => {
                self.problems.push(problem.explain(registry).await);
                None
            }
            Err(_) => {
                self.problems.push(format!("registry does not answer within {DEADLINE:?}"));
                None
            }
        };
        self.add("registry", registry.config_name());
        self.add_interface(iface);
        let Some(network) = found.map(|found| found.network) else { return };
        self.add_network(&network);
        if let Some(iface) = iface {
            let listed = timeout(DEADLINE, registry.list(&Scope::All)).await;
            let listed = listed.ok().and_then(Result::ok);
            let leases = listed.iter().flat_map(|found| found.leases());
            let peers: Vec<Ipv4Addr> = leases.map(|lease| lease.attrs.public_ip()).collect();
            let range = network.v4.network;
            let overlaps = self.take(overlaps(config, range, iface, peers).await);
            self.warnings.extend(overlaps.unwrap_or_default());
            let subnet = subnet(config, registry, &network, iface.public_ip).await;
            self.add("subnet", subnet);
            self.add_backend(config, &network, (iface, None));
        }
        self.add_rest(config, &network);
    }

    /// The same for a node of a Kubernetes cluster.
    async fn cluster(
        &mut self,
        config: &Config,
        manager: &KubeManager<'_>,
        iface: Option<&ExternalInterface>,
    ) {
        let view = manager.look(DEADLINE).await;
        let ClusterView { subnet, public_ip, leases, malformed, fault, problems } = view;
        self.problems.extend(fault.into_iter().chain(problems));
        self.warnings.extend(malformed);
        let peers = leases.iter().map(|lease| lease.attrs.public_ip()).collect();
        self.add("registry", manager.source());
        let chosen = match public_ip {
            Some(_) => self.take(interface(config, public_ip).await),
            None => iface.cloned(),
        };
        let iface = chosen.as_ref();
        self.add_interface(iface);
        let network = manager.network();
        self.add_network(network);
        if let Some(iface) = iface {
            let overlaps = overlaps(config, network.v4.network, iface, peers).await;
            let overlaps = self.take(overlaps);
            self.warnings.extend(overlaps.unwrap_or_default());
            self.add("subnet", subnet.unwrap_or_else(|| "the podCIDR of this node".to_owned()));
            self.add_backend(config, network, (iface, public_ip));
        }
        self.add_rest(config, network);
    }

    fn add_interface(&mut self, iface: Option<&ExternalInterface>) {
        if let Some(iface) = iface {
            self.add("interface", format!("{}, MTU {}", iface.name, iface.mtu));
            self.add("public_ip", iface.public_ip);
        }
    }

    fn add_network(&mut self, network: &NetworkConfig) {
        self.add("network", network.v4);
        if let Some(v6) = network.v6 {
            self.add("ipv6_network", v6);
        }
        self.warnings.extend(network.warning());
    }

    fn add_backend(
        &mut self,
        config: &Config,
        network: &NetworkConfig,
        (iface, public_ip): (&ExternalInterface, Option<Ipv4Addr>),
    ) {
        self.add("backend", network.backend.backend_type());
        let setup = backend_setup(config, network.clone(), iface.clone(), public_ip);
        let plan = backend::create(setup).plan();
        plan.device.iter().for_each(|device| self.add("device", device));
        plan.listen.iter().for_each(|listen| self.add("listen", listen));
        self.problems.extend(plan.problems);
    }

    fn add_rest(&mut self, config: &Config, network: &NetworkConfig) {
        self.add("rules", rules(config, network.nftables));
        self.add("subnet_file", config.subnet_file.display());
        self.add("health", config.healthz.map_or("none".to_owned(), |addr| addr.to_string()));
    }

    fn add(&mut self, name: &'static str, text: impl fmt::Display) {
        self.plan.push((name, text.to_string()));
    }

    /// The value, or `None` and a problem more.
    fn take<T, E: Error>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(error_chain(&error))).ok()
    }
}

/// A line for each address of the underlay, peers' included, that lies in the Network.
async fn overlaps(
    config: &Config,
    network: Ipv4Network,
    iface: &ExternalInterface,
    mut peers: Vec<Ipv4Addr>,
) -> Result<Vec<String>, DaemonError> {
    peers.retain(|addr| *addr != iface.public_ip);
    let endpoints = overlap::endpoints(&config.etcd_urls()).await;
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    Ok(overlap::check(&net, network, iface, &endpoints, &peers).await?)
}

/// The subnet that would be asked for. The registry may decide otherwise.
async fn subnet<R: Registry>(
    config: &Config,
    registry: &R,
    network: &NetworkConfig,
    public_ip: Ipv4Addr,
) -> String {
    let listed = timeout(DEADLINE, registry.list(&Scope::All)).await;
    let previous = kv_manager(config, registry).previous();
    let held = listed
        .ok()
        .and_then(Result::ok)
        .and_then(|snapshot| choose_own(network, &snapshot, public_ip, previous).cloned());
    let new = match previous.map(|it| it.v4).filter(|subnet| network.v4.accepts(*subnet)) {
        Some(subnet) => format!("{subnet}, as in the subnet file, if it is free"),
        None => "any that is free".to_owned(),
    };
    match held {
        Some(own) if is_reusable(network, &own) => {
            format!("{}, which {public_ip} has leased", own.subnet)
        }
        Some(own) => format!("{new}; lease {}, which does not fit, is deleted", own.entry.key),
        None => new,
    }
}

fn rules(config: &Config, nftables: bool) -> String {
    let firewall = &config.firewall;
    let kinds = [(firewall.forward_rules, "forward"), (firewall.ip_masq, "masquerade")];
    let kinds: Vec<&str> =
        kinds.iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| *kind).collect();
    if kinds.is_empty() {
        return "none".to_owned();
    }
    format!("{}, by {}", kinds.join(" and "), if nftables { "nftables" } else { "iptables" })
}

fn as_map<S: Serializer>(
    plan: &[(&'static str, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(plan.iter().map(|(name, text)| (name, text)))
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, text) in &self.plan {
            writeln!(f, "{:<12} {text}", name.replace('_', " "))?;
        }
        for warning in &self.warnings {
            writeln!(f, "{:<12} {warning}", "warning")?;
        }
        for problem in &self.problems {
            writeln!(f, "{:<12} {problem}", "problem")?;
        }
        Ok(())
    }
}
