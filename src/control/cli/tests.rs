use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::control::config::backend::BackendType;
use crate::control::config::daemon::{OnLeaseLoss, RegistryKind};
use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::host::firewall::FirewallConfig;
use crate::dataplane::Offloads;

mod typing;

#[test]
fn defaults_are_flannels() {
    let config = config("");
    assert_eq!(
        (config.registry, config.on_lease_loss),
        (RegistryKind::Etcd, OnLeaseLoss::Reacquire)
    );
    assert_eq!(config.etcd.endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!(config.etcd.prefix, "/coreos.com/network");
    assert_eq!((&config.etcd.ca_file, &config.etcd.username), (&None, &None));
    assert_eq!(config.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(config.renew_margin, Duration::from_secs(3600));
    assert_eq!((config.backend, config.public_ip, config.healthz), (None, None, None));
    assert_eq!(config.mtu, None);
    assert!(config.ifaces.is_empty() && config.warnings.is_empty());
    assert_eq!((config.offloads, config.verbosity), (Offloads::AUTO, 0));
    assert!((1..=8).contains(&config.num_workers));
    let firewall = FirewallConfig {
        forward_rules: true,
        ip_masq: false,
        fully_random: true,
        resync: Duration::from_secs(5),
        blackhole_route: false,
    };
    assert_eq!(config.firewall, firewall);
}

#[test]
fn workers_are_one_a_core_up_to_eight_unless_chosen() {
    let by_cores = [1, 2, 8, 9, 128, 1024].map(super::values::default_workers);
    assert_eq!(by_cores, [1, 2, 8, 8, 8, 8]);
}

#[test]
fn workers_look_again_before_they_sleep_unless_they_are_to_do_as_stock() {
    let micros = |line| config(line).threads.busy_poll.as_micros();
    assert_eq!([micros(""), micros("-offload off"), micros("-offload tso")], [50, 0, 50]);
    assert_eq!([micros("-busy-poll 0"), micros("-offload off -busy-poll 7")], [0, 7]);
}

#[test]
fn go_style_is_read_as_go_reads_it() {
    for line in ["-v 3", "--v 3", "-v=3", "--v=3", "-v 0x3", "--v=0b11", "-v=03", "-v 9 -v 3"] {
        assert_eq!(config(line).verbosity, 3, "{line}");
    }
    assert_eq!(config("-etcd-prefix=/a=b").etcd.prefix, "/a=b");
    // A value may look like a flag.
    assert_eq!(config("-etcd-prefix -v").etcd.prefix, "-v");
    for line in ["-version", "--version", "-version=true", "-version=T", "-v 1 -version=1"] {
        assert!(matches!(read(line, &[]), Ok(Invocation::Version)), "{line}");
    }
    assert_eq!(config("-version=false").verbosity, 0);
    for line in ["-h", "-help", "--help", "-v 1 -h"] {
        assert!(matches!(read(line, &[]), Ok(Invocation::Help(_))), "{line}");
    }
}

#[test]
fn word_that_is_no_flag_is_an_error_that_says_what_to_write() {
    for (line, message) in [
        ("-ip-masq true -v 3", "\"true\" is no flag: write --ip-masq=true"),
        ("-v 1 x -v 3", "\"x\" is no flag: flanneld --help lists flags and commands"),
        ("-v 1 -- -v 3", "\"-v\" is no flag: flanneld --help lists flags and commands"),
        ("-v 1 - x", "\"-\" is no flag: flanneld --help lists flags and commands"),
        ("-ip-masq= x", "flag --ip-masq: \"\" is neither true nor false"),
        ("-v 1 status", "\"status\" is no flag: write it first: flanneld status"),
        ("run x", "\"x\" is no flag: flanneld --help lists flags and commands"),
    ] {
        assert_eq!(read(line, &[]).unwrap_err().to_string(), message, "{line}");
    }
    assert_eq!(config("-v 1 --").verbosity, 1);
}

#[test]
fn first_word_may_be_a_command() {
    assert_eq!(config("run -v 3").verbosity, 3);
    assert_eq!(config("run").verbosity, 0);
    assert!(matches!(read("version", &[]), Ok(Invocation::Version)));
    for line in ["status", "status --json", "peers -json", "status -socket /x"] {
        assert!(matches!(read(line, &[]), Ok(Invocation::Tool(_))), "{line}");
    }
    // A variable that would be an error for the daemon.
    assert!(matches!(read("status", &[("FLANNELD_V", "x")]), Ok(Invocation::Tool(_))));
    for line in ["status -h", "status --help", "help status", "help", "help run", "run -help"] {
        assert!(matches!(read(line, &[]), Ok(Invocation::Help(_))), "{line}");
    }
    let blank = [" ", "status"].map(OsString::from);
    assert!(matches!(parse(blank, []), Ok(Invocation::Tool(_))));
}

#[test]
fn wrong_command_is_one_line_with_what_was_meant() {
    for (line, message) in [
        ("statsu", "unknown command \"statsu\": did you mean status? "),
        ("peer", "unknown command \"peer\": did you mean peers? "),
        ("ruin", "unknown command \"ruin\": did you mean run? "),
        ("help me", "unknown command \"me\": flanneld --help lists all commands"),
        ("eth0", "unknown command \"eth0\": flanneld --help lists all commands"),
        ("status --jsno", "unexpected argument '--jsno' found tip: a similar argument exists"),
        ("status x", "unexpected argument 'x' found (flanneld status --help)"),
        ("status --socket", "a value is required for '--socket <PATH>'"),
    ] {
        let error = read(line, &[]).unwrap_err().to_string();
        assert!(error.starts_with(message) && !error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn socket_is_next_to_the_subnet_file_unless_it_is_elsewhere() {
    let socket = |line| config(line).socket.map(|path| path.display().to_string());
    assert_eq!(socket("").unwrap(), "/run/flannel/flanneld.sock");
    assert_eq!(socket("-subnet-file /run/x/a.env").unwrap(), "/run/x/a.sock");
    assert_eq!(socket("-socket=/x/y").unwrap(), "/x/y");
    assert_eq!(socket("-socket none"), None);
    for line in ["-socket x".to_owned(), format!("-socket /{}", "x".repeat(107))] {
        let error = read(&line, &[]).unwrap_err().to_string();
        assert!(error.starts_with("flag --socket: "), "{error}");
    }
}

#[test]
fn lists_append_and_scalars_are_replaced() {
    let names: Vec<_> = config("-iface eth1 --iface=10.0.0.7 -public-ip 192.0.2.1").ifaces;
    assert_eq!(names, ["eth1".parse().unwrap(), "10.0.0.7".parse().unwrap()]);
    // A comma is part of the name, as with flannel.
    assert_eq!(config("-iface a,b").ifaces.len(), 1);
    assert_eq!(config("-public-ip 192.0.2.1 -public-ip=").public_ip, None);
}

#[test]
fn every_flag_reaches_the_config() {
    let config = config(
        "-etcd-endpoints https://a:1,https://b:2 -etcd-prefix /p -etcd-keyfile k -etcd-certfile c \
         -etcd-cafile ca -etcd-username u -etcd-password secret -backend UDP -public-ip 192.0.2.1 \
         -subnet-file f -subnet-lease-renew-margin 1439 -healthz-ip 127.0.0.1 -healthz-port 8080 \
         -workers 256 -offload gso,gro -mtu 1400 -registry file:/r.json -on-lease-loss exit",
    );
    assert_eq!(config.on_lease_loss, OnLeaseLoss::Exit);
    assert_eq!(config.registry, RegistryKind::File(PathBuf::from("/r.json")));
    let etcd = &config.etcd;
    assert_eq!(etcd.endpoints, ["https://a:1", "https://b:2"]);
    let [key, cert, ca] = ["k", "c", "ca"].map(|name| Some(PathBuf::from(name)));
    assert_eq!((&etcd.key_file, &etcd.cert_file, &etcd.ca_file), (&key, &cert, &ca));
    assert_eq!((etcd.username.as_deref(), etcd.password.as_deref()), (Some("u"), Some("secret")));
    assert_eq!(config.backend, Some(BackendType::Udp));
    assert_eq!(config.public_ip, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(config.subnet_file, PathBuf::from("f"));
    assert_eq!(config.renew_margin, Duration::from_secs(1439 * 60));
    assert_eq!(config.healthz, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!((config.num_workers, config.offloads.to_string().as_str()), (256, "gso,gro"));
    assert_eq!(config.mtu, Some(1400));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn firewall_flags_are_read_as_go_reads_booleans() {
    let config = config(
        "-ip-masq -ip-masq-fully-random-disable=T -iptables-forward-rules=0 -iptables-resync 0x10 \
         -ip-blackhole-route=true",
    );
    let firewall = FirewallConfig {
        forward_rules: false,
        ip_masq: true,
        fully_random: false,
        resync: Duration::from_secs(16),
        blackhole_route: true,
    };
    assert_eq!(config.firewall, firewall);
    assert!(run(read("", &[("FLANNELD_IP_MASQ", "true")])).firewall.ip_masq);
}

#[test]
fn ways_to_choose_an_interface_are_tried_in_flannels_order() {
    let config = config(
        "-iface-can-reach 192.0.2.1 -iface-regex ^eth -iface eth1 -iface-regex=10\\..* -iface eth0",
    );
    let ways: Vec<String> = config.ifaces.iter().map(ToString::to_string).collect();
    assert_eq!(
        ways,
        [
            "--iface eth1",
            "--iface eth0",
            "--iface-regex ^eth",
            "--iface-regex 10\\..*",
            "--iface-can-reach 192.0.2.1"
        ]
    );
}

#[test]
fn flags_of_other_modes_and_versions_are_ignored_with_a_line_each() {
    let config = config(
        "-logtostderr -iface eth0 -kube-api-url http://a -subnet-dir /d -vmodule a=1 -networks= \
         -watch-networks -watch-networks=false -public-ipv6 ::1 -alsologtostderr=false -v 1",
    );
    assert_eq!((config.ifaces.len(), config.verbosity), (1, 1));
    let ignored: Vec<&str> = config
        .warnings
        .iter()
        .filter_map(|note| note.split_once(" is ignored: "))
        .map(|n| n.0)
        .collect();
    assert_eq!(
        ignored,
        [
            "flag --logtostderr",
            "flag --subnet-dir",
            "flag --vmodule",
            "flag --public-ipv6",
            "flag --alsologtostderr",
            "flag --kube-api-url"
        ]
    );
    let env = [("FLANNELD_LOG_BACKTRACE_AT", "a.go:1"), ("FLANNELD_VMODULE", "b=1")];
    let warnings = run(read("-vmodule=", &env)).warnings;
    assert_eq!(warnings.len(), 1, "the command line wins: {warnings:?}");
    assert!(
        warnings[0].starts_with("variable FLANNELD_LOG_BACKTRACE_AT is ignored: "),
        "{warnings:?}"
    );
}

#[test]
fn kubernetes_mode_is_named_by_flags_and_by_the_variables_of_manifests() {
    let env = [
        ("FLANNELD_KUBE_SUBNET_MGR", "true"),
        ("POD_NAME", "p"),
        ("POD_NAMESPACE", "kube-flannel"),
        ("EVENT_QUEUE_DEPTH", "-1"),
        ("KUBERNETES_SERVICE_HOST", "fd00::1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let kube = |line: &str, env: &[(&str, &str)]| match run(read(line, env)).registry {
        RegistryKind::Kubernetes(kube) => *kube,
        other @ (RegistryKind::Etcd | RegistryKind::File(_)) => panic!("{other:?}"),
    };
    let pod = NodeIdentity::Pod { namespace: "kube-flannel".to_owned(), name: "p".to_owned() };
    let expected = KubeConfig {
        api_url: None,
        kubeconfig: None,
        service: Some(("fd00::1".to_owned(), "443".to_owned())),
        prefix: "flannel.alpha.coreos.com".parse().unwrap(),
        net_conf: PathBuf::from("/etc/kube-flannel/net-conf.json"),
        sets_condition: true,
        node: pod,
        queue_depth: 5000,
    };
    assert_eq!(kube("", &env), expected);
    let line = "--kube-subnet-mgr --kube-api-url=http://a:8080 --kubeconfig-file /k \
                --kube-annotation-prefix=example.com/x --net-config-path /n \
                --set-node-network-unavailable=false --etcd-endpoints=http://b:1";
    let env = [("NODE_NAME", "n1"), ("POD_NAME", "p"), ("EVENT_QUEUE_DEPTH", "7")];
    let expected = KubeConfig {
        api_url: Some("http://a:8080".to_owned()),
        kubeconfig: Some(PathBuf::from("/k")),
        service: None,
        prefix: "example.com/x-".parse().unwrap(),
        net_conf: PathBuf::from("/n"),
        sets_condition: false,
        node: NodeIdentity::Name("n1".to_owned()),
        queue_depth: 7,
    };
    assert_eq!(kube(line, &env), expected);
    let bad = [("NODE_NAME", "n1"), ("EVENT_QUEUE_DEPTH", "many")];
    let message = read("-kube-subnet-mgr", &bad).unwrap_err().to_string();
    assert_eq!(message, "variable EVENT_QUEUE_DEPTH: \"many\" is not a whole number");
}

#[test]
fn old_names_of_flags_are_taken_for_the_new_ones() {
    let config = config("-interface eth1 -iface eth2 -etcd-endpoint http://a:1");
    assert_eq!(
        (config.ifaces.len(), config.etcd.endpoints.as_slice()),
        (2, &["http://a:1".into()][..])
    );
    assert_eq!(config.warnings[0], "flag --interface is taken for --iface");
    assert_eq!(config.warnings[1], "flag --etcd-endpoint is taken for --etcd-endpoints");
}

#[test]
fn what_must_not_be_ignored_is_refused() {
    for (line, origin) in [
        ("-kube-subnet-mgr", "flag --kube-subnet-mgr: env variables POD_NAME and POD_NAMESPACE"),
        ("-kube-subnet-mgr -registry file:/r", "flag --kube-subnet-mgr: --registry names another"),
        ("-kube-annotation-prefix org", "flag --kube-annotation-prefix: \"org\" is not a prefix"),
        ("-kube-subnet-mgr=x", "flag --kube-subnet-mgr: \"x\" is neither true nor false"),
        ("-networks a,b", "flag --networks: one flanneld serves one network"),
        ("-watch-networks", "flag --watch-networks: one flanneld serves one network"),
        ("-listen :8888", "flag --listen: flannel's client/server mode is no more"),
        ("-remote a:8888", "flag --remote: flannel's client/server mode is no more"),
        ("-iface-regex (", "flag --iface-regex: \"(\" is no regular expression"),
        ("-iface-can-reach x", "flag --iface-can-reach: \"x\" is not an IPv4 address"),
    ] {
        let message = read(line, &[]).unwrap_err().to_string();
        assert!(message.starts_with(origin), "{line}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let env = [("FLANNELD_LISTEN", ":8888")];
    let message = read("", &env).unwrap_err().to_string();
    assert!(message.starts_with("variable FLANNELD_LISTEN: flannel's client/server"), "{message}");
    assert!(matches!(read("-version -kube-subnet-mgr", &[]), Ok(Invocation::Version)));
}

#[test]
fn clean_up_is_asked_for_on_the_command_line_alone() {
    let Ok(Invocation::CleanUp(file)) = read("-cleanup -subnet-file f", &[]) else { panic!() };
    assert_eq!(file, PathBuf::from("f"));
    assert!(matches!(read("", &[("FLANNELD_CLEANUP", "true")]), Ok(Invocation::Run(_))));
    assert!(matches!(read("-cleanup=false", &[]), Ok(Invocation::Run(_))));
}

#[test]
fn port_that_is_not_positive_means_no_health_endpoint() {
    for line in ["-healthz-port 0", "-healthz-port -1", "-healthz-port=-99999"] {
        assert_eq!(config(line).healthz, None, "{line}");
    }
}

#[test]
fn variable_stands_for_a_flag_that_is_not_given() {
    let env = [("FLANNELD_ETCD_PREFIX", "/env"), ("FLANNELD_IFACE", "eth1"), ("FLANNELD_V", "")];
    let config = run(read("", &env));
    assert_eq!((config.etcd.prefix.as_str(), config.ifaces.len()), ("/env", 1));
    assert_eq!(config.verbosity, 0, "an empty variable is not set");
    let config = run(read("-etcd-prefix /flag -iface eth2 -iface eth3", &env));
    assert_eq!((config.etcd.prefix.as_str(), config.ifaces.len()), ("/flag", 2));
    let printing = [("FLANNELD_VERSION", "true"), ("FLANNELD_HELP", "true")];
    assert!(matches!(read("", &printing), Ok(Invocation::Run(_))));
}

#[test]
fn bad_variable_is_named_unless_the_flag_is_given() {
    let env = [("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "never")];
    let message = "variable FLANNELD_SUBNET_LEASE_RENEW_MARGIN: \
                   \"never\" is not a whole number from 1 to 1439";
    assert_eq!(read("", &env).unwrap_err().to_string(), message);
    assert!(read("-subnet-lease-renew-margin 5", &env).is_ok());
    assert!(matches!(read("-version", &env), Ok(Invocation::Version)));
}

#[test]
fn mistakes_are_told_in_one_line() {
    let cases = [
        ("-ifac x", "unknown flag --ifac: did you mean --iface? (flanneld --help lists all flags)"),
        ("-ip-masq=on", "flag --ip-masq: \"on\" is neither true nor false"),
        ("-qube", "unknown flag --qube: flanneld --help lists all flags"),
        ("-x=1", "unknown flag --x: flanneld --help lists all flags"),
        ("-v", "flag --v needs a value: write --v=VALUE"),
        ("---v=1", "\"---v=1\" is no flag: write --name=value (flanneld --help lists them)"),
        ("-=1", "\"-=1\" is no flag: write --name=value (flanneld --help lists them)"),
        ("-v=256", "flag --v: \"256\" is not a whole number from 0 to 255"),
        ("-v=--1", "flag --v: \"--1\" is not a whole number from 0 to 255"),
        ("-workers 0", "flag --workers: \"0\" is not a whole number from 1 to 256"),
        ("-workers 257", "flag --workers: \"257\" is not a whole number from 1 to 256"),
        ("-mtu 67", "flag --mtu: \"67\" is not a whole number from 68 to 65507"),
        ("-mtu 65508", "flag --mtu: \"65508\" is not a whole number from 68 to 65507"),
        ("-healthz-port 65536", "flag --healthz-port: \"65536\" is not a port from 0 to 65535"),
        ("-healthz-ip x", "flag --healthz-ip: \"x\" is not an IP address"),
        ("-public-ip ::1", "flag --public-ip: \"::1\" is not an IPv4 address"),
        (
            "-backend gre",
            "flag --backend: unknown backend \"gre\"; this flanneld knows udp, vxlan, host-gw, gce and aws-vpc",
        ),
        ("-subnet-file=", "flag --subnet-file: a file name is needed"),
        ("-on-lease-loss x", "flag --on-lease-loss: \"x\" is neither reacquire nor exit"),
        ("-registry consul", "flag --registry: \"consul\" is neither etcd nor file:PATH"),
        ("-registry file:", "flag --registry: \"file:\" is neither etcd nor file:PATH"),
        ("-version=x", "flag --version: \"x\" is neither true nor false"),
    ];
    for (line, message) in cases {
        assert_eq!(read(line, &[]).unwrap_err().to_string(), message, "{line}");
    }
    for period in ["0", "-5", "", "5s", "4294967296"] {
        let line = format!("-iptables-resync={period}");
        let message = read(&line, &[]).unwrap_err().to_string();
        assert!(message.ends_with("is not a whole number from 1 to 4294967295"), "{message}");
    }
    for margin in ["0", "1440", "-5", "1.5", "", "99999999999999999999"] {
        let line = format!("-subnet-lease-renew-margin={margin}");
        let message = read(&line, &[]).unwrap_err().to_string();
        assert!(message.ends_with("is not a whole number from 1 to 1439"), "{line}: {message}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || OsString::from_vec(b"--etcd-prefix=\xff".to_vec());
    let error = parse([odd()], []).unwrap_err();
    assert!(error.to_string().ends_with("is not UTF-8 text"), "{error}");
    let error = parse([], [("FLANNELD_V".into(), odd())]).unwrap_err();
    assert_eq!(error.to_string(), "variable FLANNELD_V is not UTF-8 text");
}

fn config(line: &str) -> Config {
    run(read(line, &[]))
}

fn run(invocation: Result<Invocation, FlagError>) -> Config {
    match invocation {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn read(line: &str, env: &[(&str, &str)]) -> Result<Invocation, FlagError> {
    let args = line.split_whitespace().map(OsString::from);
    parse(args, env.iter().map(|(name, value)| (name.into(), value.into())))
}
