//! Mistakes of the user or the host, and the messages about them.

use std::net::TcpListener;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::host::{FLANNELD, Host, clean, text};
use crate::{flanneld, only_error};

/// In a user namespace, where we have every capability.
const UNSHARE: [&str; 2] = ["--user", "--map-root-user"];

#[test]
fn mistakes_are_one_line_and_status_1() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing.pem");
    let missing = missing.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (
            &["-etcd-endpints=x"],
            &["unknown flag --etcd-endpints", "did you mean --etcd-endpoints?"],
        ),
        (&["-public-ip", "10.0.0.300"], &["--public-ip", "\"10.0.0.300\" is not an IPv4 address"]),
        (&["-subnet-lease-renew-margin", "1440"], &["--subnet-lease-renew-margin", "1 to 1439"]),
        (&["-etcd-endpoints", "http://a:1,ftp://b"], &["-etcd-endpoints", "entry 2", "ftp"]),
        (&["-etcd-endpoints", "http://:2379"], &["-etcd-endpoints", "http://:2379"]),
        (&["-etcd-cafile", missing], &["-etcd-cafile", missing, "No such file"]),
        (&["-etcd-certfile", missing], &["-etcd-certfile", "needs -etcd-keyfile"]),
        (&["-etcd-keyfile", missing], &["-etcd-keyfile", "needs -etcd-certfile"]),
        (&["-public-ip=0.0.0.0"], &["flag --public-ip: 0.0.0.0 is no address of a host"]),
        (&["-public-ip=127.0.0.1"], &["flag --public-ip: 127.0.0.1 is a loopback address"]),
        (&["-public-ip=224.0.0.1"], &["flag --public-ip: 224.0.0.1 is a multicast address"]),
        (&["-iface=255.255.255.255"], &["flag --iface: 255.255.255.255 is the broadcast address"]),
        (&["-iface=eth0\u{a0}"], &["flag --iface", "U+00A0 (no-break space)"]),
        (&["\u{2014}etcd-endpoints=http://a:1"], &["\u{2014}etcd-endpoints", "U+2014 (em dash)"]),
    ];
    for (args, parts) in cases {
        let line = mistake(flanneld().args(args));
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {line}");
    }
    let line = mistake(flanneld().env("FLANNELD_HEALTHZ_PORT", "http"));
    assert!(line.contains("variable FLANNELD_HEALTHZ_PORT: \"http\""), "{line}");
    let line = mistake(flanneld().env("FLANNELD_IFACE", "\u{feff}eth0"));
    assert!(line.contains("variable FLANNELD_IFACE") && line.contains("U+FEFF"), "{line}");
}

#[test]
fn missing_tun_device_is_told_and_not_made() {
    let script = "mount -t tmpfs tmpfs /dev/net && { \"$0\" -backend udp; code=$?; ls /dev/net; exit $code; }";
    let mut command = clean(Command::new("unshare"));
    let line = mistake(command.args(UNSHARE).args(["--mount", "sh", "-c", script, FLANNELD]));
    assert!(line.contains("/dev/net/tun is missing") && line.contains("modprobe tun"), "{line}");
}

#[test]
fn missing_capability_is_told() {
    let drop = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", FLANNELD];
    for args in [&[][..], &["-backend", "vxlan"], &["-backend", "host-gw"]] {
        let line = mistake(clean(Command::new("unshare")).args(UNSHARE).args(drop).args(args));
        assert!(line.contains("CAP_NET_ADMIN is missing"), "{line}");
    }
}

#[test]
fn taken_health_port_is_told() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let mut command = clean(Command::new("unshare"));
    let command = command.args(UNSHARE).args([FLANNELD, "-healthz-ip", "127.0.0.1"]);
    let line = mistake(command.args(["-healthz-port", &port]));
    let address = format!("127.0.0.1:{port}");
    assert!(line.contains(&address) && line.contains("Address already in use"), "{line}");
}

#[test]
fn interface_that_is_not_there_is_told_with_those_that_are() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let (status, log) = host.start("a", &["-iface", "eth9", "-iface", "10.9.9.9"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains("no interface fits --iface eth9, --iface 10.9.9.9"), "{last}");
    assert!(last.contains("lo (127.0.0.1 10.0.0.7)"), "{last}");
}

#[test]
fn settings_of_an_environment_file_with_the_line_ends_of_windows_are_read() {
    let host = Host::new();
    let env = ["FLANNELD_IFACE=10.0.0.7\r", "FLANNELD_PUBLIC_IP=\r", "FLANNELD_IP_MASQ=true\r"];
    let endpoint = "FLANNELD_ETCD_ENDPOINT=http://192.0.2.1:2379";
    let check = [FLANNELD, "-config-check", "-registry=file:/nowhere/r.json"];
    let command = [&["env"][..], &env, &[endpoint], &check].concat();
    let Output { stdout, .. } = host.command(&command).output().unwrap();
    let plan = text(&stdout);
    assert!(plan.contains("public ip    10.0.0.7\n"), "{plan}");
    let meant =
        "variable FLANNELD_ETCD_ENDPOINT is not read: did you mean FLANNELD_ETCD_ENDPOINTS?";
    assert!(plan.contains(meant), "{plan}");
}

#[test]
fn interface_with_a_loopback_address_alone_is_told() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    host.output(&["ip", "addr", "del", "10.0.0.7/32", "dev", "lo"]);
    for flag in ["-iface=lo", "-iface-regex=^lo$", "-iface-can-reach=127.0.0.1"] {
        let (status, log) = host.start("a", &[flag]).end();
        assert_eq!(status.code(), Some(1), "{log}");
        let last = only_error(&log);
        assert!(last.contains("no usable IPv4 address") && last.contains("lo"), "{last}");
    }
}

#[test]
fn default_route_with_two_next_hops_by_one_interface_chooses_it() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let ip = |words: &str| {
        host.output(&[&["ip"][..], &words.split(' ').collect::<Vec<_>>()].concat());
    };
    for link in ["eth0 192.0.2.7/24", "eth1 198.51.100.7/24"] {
        let (name, addr) = link.split_once(' ').unwrap();
        ip(&format!("link add {name} type veth peer name p{name}"));
        ip(&format!("addr add {addr} dev {name}"));
        ip(&format!("link set {name} up"));
    }
    let hops = ["nexthop via 192.0.2.1 dev eth0", "nexthop via 192.0.2.2 dev eth0 weight 2"];
    ip(&format!("route add default {} {}", hops[0], hops[1]));
    let daemon = host.start("a", &[]);
    daemon.wait_for("Using interface with name eth0 and address 192.0.2.7");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));

    let other = "nexthop via 198.51.100.1 dev eth1";
    ip(&format!("route replace default {} {other}", hops[0]));
    let (status, log) = host.start("b", &[]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains("no single interface: choose one with --iface"), "{last}");
}

#[test]
fn check_says_what_would_be_done_and_does_nothing() {
    let host = Host::with_etcd();
    let check = |args: &[&str]| {
        let mut command = host.command(&[FLANNELD, "-config-check"]);
        command.args(["-etcd-endpoints", "http://127.0.0.1:2379", "-iface", "10.0.0.7"]);
        let Output { status, stdout, stderr } = command.args(args).output().unwrap();
        (status.code(), text(&stdout), text(&stderr))
    };
    let (code, plan, error) = check(&[]);
    assert_eq!(code, Some(1), "{plan}");
    assert!(
        plan.contains("problem      etcd key /coreos.com/network/config does not exist"),
        "{plan}"
    );
    assert!(
        error.starts_with("flanneld: etcd key /coreos.com/network/config does not exist"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");

    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let key = "/coreos.com/network/subnets/10.1.9.0-24";
    host.etcdctl(&["put", key, r#"{"PublicIP":"10.0.0.7"}"#]);
    let before = host.etcdctl(&["get", "--prefix", "/"]);
    let (code, plan, error) = check(&["-ip-masq", "-logtostderr"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{plan}");
    for line in [
        "interface    lo, MTU 65536",
        "public ip    10.0.0.7",
        "network      10.1.0.0/16, as /24s, 10.1.1.0 to 10.1.255.0",
        "subnet       10.1.9.0/24, which 10.0.0.7 has leased",
        "device       the first free flannelN, MTU 65507, with 10.1.0.0/16 routed",
        "rules        forward and masquerade, by iptables",
        "warning      flag --logtostderr is ignored: ",
    ] {
        assert!(plan.contains(line), "no {line} in {plan}");
    }
    let (code, json, _) = check(&["-json", "-mtu", "1400"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["problems"]), (Some(0), &serde_json::json!([])));
    assert!(json["plan"]["device"].as_str().unwrap().contains("MTU 1400"), "{json}");
    assert_eq!(host.etcdctl(&["get", "--prefix", "/"]), before, "no lease is taken");

    host.put_config(r#"{"Network":"10.2.0.0/16"}"#);
    let (_, plan, _) = check(&[]);
    let line = "subnet       any that is free; lease 10.1.9.0-24, which does not fit, is deleted";
    assert!(plan.contains(line), "{plan}");
    assert!(host.etcdctl(&["get", key]).contains("10.0.0.7"), "not now");
    assert!(host.links_named_flannel().is_empty());
}

#[test]
fn check_tells_of_each_port_that_is_taken() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":8290}}"#);
    let check = |args: &[&str]| {
        let mut command = host.command(&[FLANNELD, "-config-check", "-iface", "10.0.0.7"]);
        command.args(["-etcd-endpoints", "http://127.0.0.1:2379"]).args(args);
        let Output { status, stdout, .. } = command.output().unwrap();
        let problems = text(&stdout);
        let problems = problems.lines().filter(|line| line.starts_with("problem"));
        (status.code(), problems.map(str::to_owned).collect::<Vec<String>>())
    };
    let health = ["-healthz-ip", "10.0.0.7", "-healthz-port", "8291"];
    assert_eq!(check(&health), (Some(0), Vec::new()));
    let daemon = host.start("a", &[&["-iface", "10.0.0.7"][..], &health].concat());
    daemon.wait_for("Watching for new subnet leases");
    let (code, problems) = check(&health);
    assert_eq!((code, problems.len()), (Some(1), 2), "{problems:?}");
    assert!(problems[0].contains("10.0.0.7:8291 (--healthz-ip, --healthz-port)"), "{problems:?}");
    assert!(problems[1].contains("10.0.0.7:8290: Address already in use"), "{problems:?}");
    assert!(problems[1].contains("perhaps by another flanneld"), "{problems:?}");
    assert_eq!(check(&[]).1.len(), 1);
    daemon.stop();
    assert_eq!(check(&health), (Some(0), Vec::new()), "nothing was held");
}

/// Runs a command that must print only one line, and exit with status 1.
fn mistake(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stdout, "", "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("flanneld: ") && stderr.ends_with('\n'), "{stderr}");
    stderr
}
