//! The flags, as clap sees them. The doc comment of a field is its help text.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Command, Parser};

use super::error::FlagError;
use super::go_flags::{variable_flag, variable_of};
use super::kube_variables::KubeVariables;
use super::term::WIDTH;
use super::values::{self, Maybe, Socket};
use crate::control::config::backend::BackendType;
use crate::control::config::daemon::Config;
use crate::control::config::daemon::OnLeaseLoss;
use crate::control::config::daemon::RegistryKind;
use crate::control::config::daemon::default_socket;
use crate::control::config::daemon::{FastPathChoice, SourcePorts};
use crate::control::config::etcd::{EtcdApi, EtcdConfig};
use crate::control::config::kube::{AnnotationPrefix, KubeConfig};
use crate::control::host::firewall::FirewallConfig;
use crate::control::host::iface::{IfaceRegex, IfaceSpec};
use crate::dataplane::{Offloads, ThreadConfig};

const ABOUT: &str = "\
Joins this host to a flannel overlay network: leases a subnet in etcd or in a file, or takes the \
podCIDR of a Kubernetes node, writes subnet.env, and carries packets between the hosts' subnets.

Every flag may be written -name or --name, with its value behind = or as the next word, and may \
also be given as the variable named in brackets; the command line wins.";

/// What the help text calls the value of a flag that is true or false.
const BOOL: &str = "BOOL";

#[derive(Debug, Parser)]
#[command(
    name = "flanneld",
    about = ABOUT,
    override_usage = "flanneld [run] [flags]\n       flanneld COMMAND [flags]",
    disable_help_subcommand = true,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    next_line_help = true,
    term_width = WIDTH
)]
pub(super) struct Cli {
    #[command(flatten, next_help_heading = "Registry")]
    registry: RegistryFlags,
    #[command(flatten, next_help_heading = "etcd")]
    etcd: EtcdFlags,
    #[command(flatten, next_help_heading = "Kubernetes")]
    kube: KubeFlags,
    #[command(flatten, next_help_heading = "This host")]
    host: HostFlags,
    #[command(flatten, next_help_heading = "Subnet")]
    pub(super) subnet: SubnetFlags,
    #[command(flatten, next_help_heading = "Firewall")]
    firewall: FirewallFlags,
    #[command(flatten, next_help_heading = "Data plane")]
    data_plane: DataPlaneFlags,
    #[command(flatten, next_help_heading = "Health")]
    health: HealthFlags,
    #[command(flatten, next_help_heading = "Other")]
    pub(super) other: OtherFlags,
}

#[derive(Debug, Args)]
struct RegistryFlags {
    /// Where network config and leases are stored: etcd, or file:PATH for a JSON file that the daemons
    /// of one machine share.
    #[arg(long, value_name = "REGISTRY", default_value = "etcd", value_parser = RegistryKind::from_str)]
    registry: RegistryKind,
}

#[derive(Debug, Args)]
struct EtcdFlags {
    /// Comma list of etcd endpoints.
    #[arg(
        long,
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        value_parser = values::list
    )]
    etcd_endpoints: values::List,

    /// Key prefix: the network config is read from PREFIX/config, leases live under
    /// PREFIX/subnets.
    #[arg(long, value_name = "PREFIX", default_value = "/coreos.com/network")]
    etcd_prefix: String,

    /// etcd API for config and leases: 3 as flannel from 0.18 on, 2 as flannel up to 0.17, or auto:
    /// 3, unless only 2 has the network config.
    #[arg(long, value_name = "auto|3|2", default_value = "auto", value_parser = EtcdApi::from_str)]
    etcd_api: EtcdApi,

    /// Private key of the client certificate, PEM; goes with --etcd-certfile.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = values::maybe::<PathBuf>)]
    etcd_keyfile: Maybe<PathBuf>,

    /// Client certificate, PEM; goes with --etcd-keyfile.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = values::maybe::<PathBuf>)]
    etcd_certfile: Maybe<PathBuf>,

    /// Certificate authority that signed etcd's certificate, PEM. Without it the system's are
    /// trusted.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = values::maybe::<PathBuf>)]
    etcd_cafile: Maybe<PathBuf>,

    /// etcd user.
    #[arg(long, value_name = "NAME", default_value = "", value_parser = values::maybe::<String>)]
    etcd_username: Maybe<String>,

    /// Password of the etcd user. Prefer the variable: any user can read a command line.
    #[arg(long, value_name = "PASSWORD", default_value = "", value_parser = values::maybe::<String>)]
    etcd_password: Maybe<String>,
}

#[derive(Debug, Args)]
struct KubeFlags {
    /// Take the subnet from the node's podCIDR and find peers among the cluster's nodes, as
    /// kube-flannel. The variable NODE_NAME names the node, or else POD_NAMESPACE and POD_NAME the
    /// pod that runs on it. The flags of etcd are ignored then.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    kube_subnet_mgr: bool,

    /// URL of the API server, instead of the kubeconfig's.
    #[arg(long, value_name = "URL", default_value = "", value_parser = values::maybe::<String>)]
    kube_api_url: Maybe<String>,

    /// Kubeconfig to reach the API server with; its current-context counts. Without it and without
    /// --kube-api-url: the service account of the pod.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = values::maybe::<PathBuf>)]
    kubeconfig_file: Maybe<PathBuf>,

    /// What the names of the node's annotations begin with.
    #[arg(long, value_name = "PREFIX", default_value = "flannel.alpha.coreos.com", value_parser = AnnotationPrefix::from_str)]
    kube_annotation_prefix: AnnotationPrefix,

    /// File with the network config, in place of the one in etcd.
    #[arg(long, value_name = "FILE", default_value = "/etc/kube-flannel/net-conf.json", value_parser = values::path)]
    net_config_path: PathBuf,

    /// Set the node's condition NetworkUnavailable to False once flanneld runs, and keep it there.
    #[arg(long, value_name = BOOL, default_value = "true", action = ArgAction::Set, value_parser = values::go_bool)]
    set_node_network_unavailable: bool,
}

#[derive(Debug, Args)]
struct HostFlags {
    /// External interface, by name or IPv4 address; repeat to give several, tried in order.
    /// Without it: the interface that owns --public-ip if that is given, else the default route's.
    #[arg(long, value_name = "NAME|IP", value_parser = values::spec)]
    iface: Vec<IfaceSpec>,

    /// External interface, by a regular expression that an address of it, or else its name, matches
    /// somewhere; repeat to give several. Tried after --iface.
    #[arg(long, value_name = "REGEX", value_parser = IfaceRegex::from_str)]
    iface_regex: Vec<IfaceRegex>,

    /// External interface, by an IPv4 address that the host's routes reach through it. Tried last.
    #[arg(long, value_name = "IP", default_value = "", value_parser = values::maybe_ipv4)]
    iface_can_reach: Maybe<Ipv4Addr>,

    /// IPv4 address peers send to. Without it: the address of the external interface.
    #[arg(long, value_name = "IP", default_value = "", value_parser = values::public_ip)]
    public_ip: Maybe<Ipv4Addr>,
}

#[derive(Debug, Args)]
pub(super) struct SubnetFlags {
    /// File that describes the network to docker and CNI plugins. The next start asks for the
    /// subnet in it again.
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env", value_parser = values::path)]
    pub(super) subnet_file: PathBuf,

    /// Minutes before its expiry at which the lease is renewed, 1 to 1439.
    #[arg(long, value_name = "MINUTES", default_value = "60", value_parser = values::margin)]
    subnet_lease_renew_margin: u16,

    /// What to do when the lease is deleted before it expires: reacquire (the same subnet; exit if
    /// another node has it), or exit.
    #[arg(long, value_name = "ACTION", default_value = "reacquire", value_parser = OnLeaseLoss::from_str)]
    on_lease_loss: OnLeaseLoss,
}

#[derive(Debug, Args)]
struct FirewallFlags {
    /// Accept forwarded packets from and to the network, whatever the policy of the host's FORWARD
    /// chain.
    #[arg(long, value_name = BOOL, default_value = "true", action = ArgAction::Set, value_parser = values::go_bool)]
    iptables_forward_rules: bool,

    /// Masquerade packets that leave the network, or that enter it from the host.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    ip_masq: bool,

    /// Let the kernel pick the ports of masqueraded connections in order, not at random.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    ip_masq_fully_random_disable: bool,

    /// Seconds between two checks of the rules and of the blackhole route, which repair what differs.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = values::resync)]
    iptables_resync: u32,

    /// Keep a blackhole route for this host's subnet, so that packets for it are not forwarded
    /// elsewhere while no bridge has it.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    ip_blackhole_route: bool,
}

/// Longer than a round trip within one network, and about as long as waking up a core: ADR 0009.
const BUSY_POLL: Duration = Duration::from_micros(50);

#[derive(Debug, Args)]
struct DataPlaneFlags {
    /// Backend to use instead of the network config's Backend.Type: udp, vxlan, host-gw,
    /// gce or aws-vpc.
    #[arg(long, value_name = "TYPE", default_value = "", value_parser = values::maybe::<BackendType>)]
    backend: Maybe<BackendType>,

    /// MTU of the overlay in bytes, 68 to 65507, instead of the network config's Backend.MTU; give
    /// all nodes the same. Without either: the external interface's MTU, less 28 with udp, less
    /// 50 with vxlan.
    #[arg(long, value_name = "BYTES", value_parser = values::mtu)]
    mtu: Option<u16>,

    /// Threads that carry TCP, each with its own TUN queue and socket, 1 to 256; as many more carry
    /// everything else, so that it does not wait for TCP. With --source-ports=shared or --offload=off
    /// the same threads carry both. Without it: one per core, up to 8.
    #[arg(long, value_name = "NUMBER", value_parser = values::workers)]
    workers: Option<u16>,

    /// Kernel offloads to use where the kernel has them: auto, off, or a comma list of tso, uso,
    /// gso, gro.
    #[arg(long, value_name = "NAMES", default_value = "auto", value_parser = Offloads::from_str)]
    offload: Offloads,

    /// Outer source ports: auto gives each flow its own port, towards peers whose lease allows it,
    /// so that network cards and routers can spread the load; shared uses only the network's port,
    /// for firewalls that require it.
    #[arg(long, value_name = "auto|shared", default_value = "auto", value_parser = SourcePorts::from_str)]
    source_ports: SourcePorts,

    /// Whether the kernel carries TCP, ICMP and sparse UDP by itself, with BPF programs, to and from
    /// peers that say they do so too: auto those of them with which the kernel is faster; xdp
    /// also behind network cards whose driver has native XDP (measure whether that is faster); off
    /// never. With --offload=off it is off.
    #[arg(long, value_name = "auto|xdp|off", default_value = "auto", value_parser = FastPathChoice::from_str)]
    fast_path: FastPathChoice,

    /// Pin each worker to its own core, if there are enough.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    pin_workers: bool,

    /// Microseconds for which an idle worker polls before it sleeps, 0 to 1000000, so that packets
    /// that arrive meanwhile do not wait for a wake-up. It yields its core to other threads, and
    /// stops polling for a second if few packets arrive in time or if others keep the core busy.
    /// Without it: 50, or 0 with --offload=off
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::busy_poll)]
    busy_poll: Option<Duration>,
}

#[derive(Debug, Args)]
struct HealthFlags {
    /// Address of the health endpoint, which serves /healthz, /readyz, /metrics and /stats to
    /// anyone who can reach it. The default is every address of the host, as stock's.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", value_parser = values::ip)]
    healthz_ip: IpAddr,

    /// TCP port of the health endpoint; 0 for none.
    #[arg(long, value_name = "PORT", default_value = "0", value_parser = values::healthz_port)]
    healthz_port: u16,

    /// Answer /readyz with 503 while the registry does not answer. Without it an outage of the
    /// registry is a warning there, since packets go on.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    readiness_needs_registry: bool,

    /// Unix socket at which flanneld status and the other tools ask this daemon, for root and
    /// the group flannel; none for no socket. Without it: flanneld.sock in the directory of
    /// --subnet-file, or NAME.sock if that file is NAME.env.
    #[arg(long, value_name = "PATH", default_value = "", value_parser = values::socket)]
    socket: Maybe<Socket>,
}

#[derive(Debug, Args)]
pub(super) struct OtherFlags {
    /// How much is logged: 0 what changes; 1 also each peer, each lease written and each thing
    /// repaired on the host; 2 also each check that finds nothing to do; 3 also what libraries say.
    /// RUST_LOG overrides it.
    #[arg(long, value_name = "LEVEL", default_value = "0", value_parser = values::verbosity)]
    v: u8,

    /// Remove what any flanneld created on this host, print it, and exit: rules, devices, routes to
    /// peers, the blackhole route, and the subnet file.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    pub(super) cleanup: bool,

    /// Check flags, host, network config and ports, print what flanneld would do, and exit, with
    /// status 1 if it could not start. Nothing is changed. Ports of a running flanneld count as
    /// in use.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    pub(super) config_check: bool,

    /// Print the result of --config-check as JSON.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    pub(super) json: bool,

    /// Print the version and exit.
    #[arg(long, value_name = BOOL, default_value = "false", action = ArgAction::Set, value_parser = values::go_bool)]
    pub(super) version: bool,

    /// Print this help and exit.
    #[arg(short, long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

impl Cli {
    /// The flags' values as the daemon wants them.
    ///
    /// # Errors
    /// [`FlagError::Value`] for flags that contradict each other, or what Kubernetes mode lacks.
    pub(super) fn into_config(
        self,
        variables: &KubeVariables,
        settings: String,
        mut warnings: Vec<String>,
    ) -> Result<Config, FlagError> {
        let Self { registry, etcd, kube, host, subnet, firewall, data_plane, health, other } = self;
        let healthz = SocketAddr::new(health.healthz_ip, health.healthz_port);
        let num_cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        if !kube.kube_subnet_mgr {
            warnings.extend(
                kube.unread().map(|flag| {
                    format!("flag --{flag} is ignored: it goes with --kube-subnet-mgr")
                }),
            );
        }
        let registry = match kube.kube_subnet_mgr {
            true => RegistryKind::Kubernetes(Box::new(kube.into_config(&registry, variables)?)),
            false => registry.registry,
        };
        Ok(Config {
            registry,
            etcd: etcd.into_config(),
            backend: data_plane.backend,
            mtu: data_plane.mtu,
            ifaces: host.ifaces(),
            public_ip: host.public_ip,
            socket: match health.socket {
                None => Some(default_socket(&subnet.subnet_file)),
                Some(Socket::None) => None,
                Some(Socket::At(path)) => Some(path),
            },
            subnet_file: subnet.subnet_file,
            renew_margin: Duration::from_secs(60) * subnet.subnet_lease_renew_margin.into(),
            on_lease_loss: subnet.on_lease_loss,
            firewall: firewall.into_config(),
            healthz: (healthz.port() > 0).then_some(healthz),
            needs_registry: health.readiness_needs_registry,
            num_workers: data_plane.workers.map_or(values::default_workers(num_cores), usize::from),
            offloads: data_plane.offload,
            source_ports: data_plane.source_ports,
            fast_path: data_plane.fast_path(),
            threads: data_plane.threads(),
            verbosity: other.v,
            settings,
            warnings,
        })
    }
}

impl KubeFlags {
    /// The flags that name an API server.
    fn unread(&self) -> impl Iterator<Item = &'static str> {
        let url = self.kube_api_url.is_some().then_some("kube-api-url");
        url.into_iter().chain(self.kubeconfig_file.is_some().then_some("kubeconfig-file"))
    }

    fn into_config(
        self,
        registry: &RegistryFlags,
        variables: &KubeVariables,
    ) -> Result<KubeConfig, FlagError> {
        if registry.registry != RegistryKind::Etcd {
            let origin = "flag --kube-subnet-mgr".to_owned();
            let reason = "--registry names another place for leases: give one of the two";
            return Err(FlagError::Value { origin, reason: reason.to_owned() });
        }
        Ok(KubeConfig {
            api_url: self.kube_api_url,
            kubeconfig: self.kubeconfig_file,
            service: variables.service(),
            prefix: self.kube_annotation_prefix,
            net_conf: self.net_config_path,
            sets_condition: self.set_node_network_unavailable,
            node: variables.node()?,
            queue_depth: variables.queue_depth()?,
        })
    }
}

impl DataPlaneFlags {
    /// The fast path is an offload like the others: without any, the workers carry everything.
    fn fast_path(&self) -> FastPathChoice {
        if self.offload == Offloads::OFF { FastPathChoice::Off } else { self.fast_path }
    }

    /// With all offloads off, packets are moved as stock moves them: no busy-polling by default.
    fn threads(&self) -> ThreadConfig {
        let default = if self.offload == Offloads::OFF { Duration::ZERO } else { BUSY_POLL };
        ThreadConfig { pin: self.pin_workers, busy_poll: self.busy_poll.unwrap_or(default) }
    }
}

impl HostFlags {
    /// In stock's order: `LookupExtIface` in flannel's `pkg/ipmatch`.
    fn ifaces(&self) -> Vec<IfaceSpec> {
        let regexes = self.iface_regex.iter().cloned().map(IfaceSpec::Regex);
        let reached = self.iface_can_reach.map(IfaceSpec::CanReach);
        self.iface.iter().cloned().chain(regexes).chain(reached).collect()
    }
}

impl EtcdFlags {
    /// Endpoints and files are checked when the registry is opened.
    fn into_config(self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.etcd_endpoints,
            prefix: self.etcd_prefix,
            api: self.etcd_api,
            ca_file: self.etcd_cafile,
            cert_file: self.etcd_certfile,
            key_file: self.etcd_keyfile,
            username: self.etcd_username,
            password: self.etcd_password,
        }
    }
}

impl FirewallFlags {
    fn into_config(self) -> FirewallConfig {
        FirewallConfig {
            forward_rules: self.iptables_forward_rules,
            ip_masq: self.ip_masq,
            fully_random: !self.ip_masq_fully_random_disable,
            resync: Duration::from_secs(self.iptables_resync.into()),
            blackhole_route: self.ip_blackhole_route,
        }
    }
}

/// Makes Go's booleans of the flags whose value is called [`BOOL`]: they are true when they have no
/// value, and take one only after `=`.
pub(super) fn with_go_booleans(command: Command) -> Command {
    command.mut_args(|arg| {
        let name = arg.get_value_names().and_then(|names| names.first());
        if name.is_none_or(|name| *name != BOOL) {
            return arg;
        }
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
    })
}

/// Adds its variable and its default to every flag's help.
pub(super) fn describe_variables(command: Command) -> Command {
    command.mut_args(|arg| match variable_flag(&arg).map(variable_of) {
        None => arg,
        Some(variable) => {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let default = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            let note = match default.collect::<String>().as_str() {
                "" => format!("[{variable}]"),
                default => format!("[{variable}, default {default}]"),
            };
            arg.help(format!("{help}\n{note}")).hide_default_value(true)
        }
    })
}
