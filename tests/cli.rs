//! The `flanneld` binary from outside: what it prints, and how it ends.
//!
//! Tests that need a network make a user and network namespace of their own, so none needs root.
//! Where namespaces are forbidden they fail.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");

/// In a user namespace, where we have every capability.
const UNSHARE: [&str; 2] = ["--user", "--map-root-user"];

#[test]
fn help_is_worth_reading() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    let help = flanneld().arg("-help").output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    // To accept a change: target/debug/flanneld -help > tests/golden/help.txt
    assert_eq!(text(&help.stdout), fs::read_to_string(golden).unwrap());
}

#[test]
fn version_stands_alone_on_stdout() {
    let version = flanneld().arg("-version").env("FLANNELD_V", "x").output().unwrap();
    assert!(version.status.success() && version.stderr.is_empty());
    assert_eq!(text(&version.stdout), concat!("v", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn mistakes_are_one_line_and_status_1() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing.pem");
    let missing = missing.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
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
    ];
    for (args, parts) in cases {
        let line = mistake(flanneld().args(args));
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {line}");
    }
    let line = mistake(flanneld().env("FLANNELD_HEALTHZ_PORT", "http"));
    assert!(line.contains("variable FLANNELD_HEALTHZ_PORT: \"http\""), "{line}");
}

#[test]
fn missing_tun_device_is_told_and_not_made() {
    let script = "mount -t tmpfs tmpfs /dev/net && { \"$0\"; code=$?; ls /dev/net; exit $code; }";
    let mut command = clean(Command::new("unshare"));
    let line = mistake(command.args(UNSHARE).args(["--mount", "sh", "-c", script, FLANNELD]));
    assert!(line.contains("/dev/net/tun is missing") && line.contains("modprobe tun"), "{line}");
}

#[test]
fn missing_capability_is_told() {
    let drop = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", FLANNELD];
    let line = mistake(clean(Command::new("unshare")).args(UNSHARE).args(drop));
    assert!(line.contains("CAP_NET_ADMIN is missing"), "{line}");
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
    assert!(host.links_named_flannel().is_empty());
}

#[test]
fn daemon_sets_the_host_up_and_leaves_nothing_but_its_file_and_lease() {
    let host = Host::with_etcd();
    host.put_config(r#"{"network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-public-ip", "192.0.2.1"]);
    let log = daemon.wait_for("Watching for new subnet leases");
    for line in [
        "Found network config - Backend type: udp",
        "Using interface with name lo and address 10.0.0.7",
        "Using 192.0.2.1 as external address",
        "Allocated lease (ip: 10.1.",
        "Wrote subnet file to ",
        "flannel is ready",
        "Running backend.",
    ] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(!log.contains('\x1b'), "colours in a file: {log}");
    let env = fs::read_to_string(host.dir.path().join("a.env")).unwrap();
    assert!(env.starts_with("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1."), "{env}");
    let route = host.output(&["ip", "-d", "route", "show", "10.1.0.0/16"]);
    assert_eq!(route.trim(), "unicast 10.1.0.0/16 dev flannel0 proto boot scope global");
    let subnet = env.lines().nth(1).unwrap().trim_start_matches("FLANNEL_SUBNET=");
    let addr = subnet.replace(".1/24", ".0/32");
    let addrs = host.output(&["ip", "-4", "-o", "addr", "show", "dev", "flannel0"]);
    assert!(addrs.contains(&format!("inet {addr} scope global flannel0")), "{addrs}");
    let link = host.output(&["ip", "-o", "link", "show", "flannel0"]);
    assert!(link.contains(",UP,") && link.contains("mtu 65507 "), "{link}");
    assert!(link.contains("qlen 1000"), "{link}");

    daemon.signal("TERM");
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(host.links_named_flannel().is_empty());
    let leases = host.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets/"]);
    assert!(leases.contains(r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#), "{leases}");
}

#[test]
fn taken_udp_port_is_told_and_the_device_goes() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":8290}}"#);
    let first = host.start("first", &["-iface", "lo", "-iface", "10.0.0.7"]);
    first.wait_for("Watching for new subnet leases");
    let (status, log) = host.start("second", &["-iface", "10.0.0.7"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains("bind UDP socket to 10.0.0.7:8290: Address already in use"), "{last}");
    assert!(last.contains("another flanneld"), "{last}");
    assert_eq!(host.links_named_flannel(), ["flannel0"]);
}

#[test]
fn deleted_lease_ends_the_daemon_with_status_1_if_it_is_to() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7", "-on-lease-loss", "exit"]);
    daemon.wait_for("Watching for new subnet leases");
    host.etcdctl(&["del", "--prefix", "/coreos.com/network/subnets/"]);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains("lease lost: "), "{log}");
    assert!(host.links_named_flannel().is_empty());
}

#[test]
fn deleted_lease_is_reacquired_and_one_taken_over_ends_the_daemon_with_status_1() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Watching for new subnet leases");
    let subnets = ["--prefix", "/coreos.com/network/subnets/"];
    let lease =
        || host.etcdctl(&[&["get", "--keys-only"][..], &subnets].concat()).trim().to_owned();
    let key = lease();
    host.etcdctl(&[&["del"][..], &subnets].concat());
    daemon.wait_for("was deleted by somebody and was created anew");
    assert_eq!(lease(), key);
    assert_eq!(host.links_named_flannel(), ["flannel0"]);

    host.etcdctl(&["put", &key, r#"{"PublicIP":"10.0.0.9"}"#]);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = only_error(&log);
    assert!(last.contains(" of 10.0.0.7 now belongs to 10.0.0.9"), "{last}");
    assert!(host.links_named_flannel().is_empty());
    assert!(host.etcdctl(&["get", &key]).contains("10.0.0.9"), "not overwritten");
}

#[test]
fn restart_without_etcd_keeps_subnet_and_peers_and_settles_when_it_is_back() {
    let mut host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    let peer = "/coreos.com/network/subnets/10.1.9.0-24";
    host.etcdctl(&["put", peer, r#"{"PublicIP":"10.0.0.9"}"#]);
    let env = host.dir.path().join("a.env");
    let state = host.dir.path().join("a.state.json");
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    eventually("state", || fs::read_to_string(&state).ok().filter(|s| s.contains("10.1.9.0-24")));
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
    let subnet = fs::read_to_string(&env).unwrap();

    host.stop_etcd();
    fs::remove_file(&env).unwrap();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("do not agree with its subnet");
    daemon.wait_for("Couldn't fetch network config");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));

    fs::write(&env, &subnet).unwrap();
    let started = Instant::now();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    let log = daemon.wait_for("Watching for new subnet leases");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(log.contains(" and 1 peers from "), "{log}");
    assert_eq!(fs::read_to_string(&env).unwrap(), subnet);
    assert_eq!(host.links_named_flannel(), ["flannel0"]);
    host.start_etcd();
    let log = daemon.wait_for("is still ours");
    assert!(!log.contains("Subnet removed") && !log.contains("conflict"), "{log}");

    // Somebody takes the subnet while both are away.
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
    let keys = host.etcdctl(&["get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"]);
    let own = keys.lines().find(|key| !key.is_empty() && *key != peer).unwrap().to_owned();
    host.etcdctl(&["put", &own, r#"{"PublicIP":"10.0.0.8"}"#]);
    host.stop_etcd();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Watching for new subnet leases");
    host.start_etcd();
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(only_error(&log).contains(" of 10.0.0.7 now belongs to 10.0.0.8"), "{log}");
    assert!(!state.exists() && host.etcdctl(&["get", &own]).contains("10.0.0.8"));
}

#[test]
fn daemons_share_a_registry_in_a_file() {
    let host = Host::new();
    host.output(&["ip", "addr", "add", "10.0.0.8/32", "dev", "lo"]);
    let file = host.dir.path().join("registry.json");
    let flag = format!("file:{}", file.display());
    let daemon = |name: &str, addr: &str| {
        let small = ["-offload", "off", "-workers", "1", "-source-ports", "shared"];
        host.start(name, &[&["-registry", &flag, "-iface", addr][..], &small].concat())
    };
    let first = daemon("first", "10.0.0.7");
    let missing = format!("config in file {} does not exist", file.display());
    first.wait_for(&missing);
    fs::write(&file, "{ \"config\": {").unwrap();
    first.wait_for("not a registry: EOF while parsing");
    let typed = r#"{ "config": {"Network": "10.1.0.0/16"}, "by": "hand",
        "leases": {"10.1.8.0-24": {"PublicIP": "10.0.0.8", "note": "reserved"}} }"#;
    fs::write(&file, typed).unwrap();
    first.wait_for("Subnet added: 10.1.8.0/24");
    let second = daemon("second", "10.0.0.8");
    second.wait_for("Found lease (ip: 10.1.8.0/24 ipv6: ::/0) for current IP (10.0.0.8), reusing");
    second.wait_for("Subnet added: 10.1.");

    // A hand edit while both run, then an accident, then the repair. Beyond the first hundred
    // subnets, of which `first` has one.
    let text = fs::read_to_string(&file).unwrap();
    let entry = "\"10.1.8.0-24\": {\"PublicIP\": \"10.0.0.8\", \"note\": \"reserved\"}";
    assert!(text.contains(entry) && text.contains("\"by\": \"hand\""), "{text}");
    let more =
        text.replace(entry, &format!("\"10.1.200.0-24\": {{\"PublicIP\": \"10.0.0.9\"}}, {entry}"));
    fs::write(&file, &more).unwrap();
    for daemon in [&first, &second] {
        daemon.wait_for("Subnet added: 10.1.200.0/24");
    }
    fs::write(&file, &more[..50]).unwrap();
    second.wait_for("trying again");
    fs::write(&file, &text).unwrap();
    let log = second.wait_for("Subnet removed: 10.1.200.0/24");
    assert_eq!(log.matches("Subnet removed: ").count(), 1, "{log}");

    for daemon in [first, second] {
        daemon.signal("TERM");
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn signal_while_waiting_for_config_is_a_clean_end_and_no_log_holds_the_password() {
    let host = Host::new();
    let user = ["-etcd-username", "u", "-etcd-password", "sesame", "-v", "9"];
    for signal in ["TERM", "INT"] {
        let daemon = host.start(signal, &user);
        daemon.wait_for("Couldn't fetch network config");
        daemon.signal(signal);
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("sesame"), "{log}");
    }
}

#[test]
fn second_signal_kills() {
    let host = Host::new();
    let daemon = host.start("a", &[]);
    daemon.wait_for("Couldn't fetch network config");
    // Both are pending when the process goes on: it gets no chance to end between them.
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        daemon.signal(signal);
    }
    let (status, log) = daemon.end();
    assert!(status.signal().is_some(), "{status}: {log}");
}

/// A host of its own: namespaces with 10.0.0.7 on lo, and perhaps etcd on 127.0.0.1:2379.
struct Host {
    dir: TempDir,
    /// Lives in the namespaces, until its standard input closes.
    holder: Child,
    etcd: Option<Child>,
}

impl Host {
    fn new() -> Self {
        let script = "ip link set lo up && ip addr add 10.0.0.7/32 dev lo && echo up && exec cat";
        let mut command = clean(Command::new("unshare"));
        command.args(UNSHARE).args(["--net", "sh", "-c", script]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "cannot make namespaces");
        Self { dir: TempDir::new().unwrap(), holder, etcd: None }
    }

    fn with_etcd() -> Self {
        let mut host = Self::new();
        host.start_etcd();
        host
    }

    fn start_etcd(&mut self) {
        let mut etcd = self.command(&["etcd", "--data-dir"]);
        etcd.arg(self.dir.path().join("etcd")).stdout(Stdio::null()).stderr(Stdio::null());
        self.etcd = Some(etcd.spawn().unwrap());
        let healthy = || self.command(&["etcdctl", "endpoint", "health"]).output().unwrap();
        eventually("etcd is up", || healthy().status.success().then_some(()));
    }

    /// Ends it at once, as a power failure does.
    fn stop_etcd(&mut self) {
        let mut etcd = self.etcd.take().unwrap();
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut nsenter = clean(Command::new("nsenter"));
        nsenter.args(["--user", "--net", "--target", &self.holder.id().to_string(), "--"]);
        nsenter.args(command).env("ETCDCTL_API", "3").stdin(Stdio::null());
        nsenter
    }

    fn output(&self, command: &[&str]) -> String {
        let output = self.command(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn etcdctl(&self, args: &[&str]) -> String {
        self.output(&[&["etcdctl"], args].concat())
    }

    fn put_config(&self, json: &str) {
        self.etcdctl(&["put", "/coreos.com/network/config", json]);
    }

    fn links_named_flannel(&self) -> Vec<String> {
        let links = self.output(&["ip", "-br", "link"]);
        let names = links.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with("flannel")).map(str::to_owned).collect()
    }

    /// Starts flanneld with `<name>.env` for its subnet file.
    fn start(&self, name: &str, args: &[&str]) -> Daemon {
        let file = |suffix: &str| self.dir.path().join(format!("{name}.{suffix}"));
        let (log, env) = (file("log"), file("env"));
        let mut command = self.command(&[FLANNELD, "-etcd-endpoints", "http://127.0.0.1:2379"]);
        command.arg("-subnet-file").arg(env).args(args);
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Daemon { child, log }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.etcd.iter_mut().chain([&mut self.holder]) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A running flanneld, logging to a file.
struct Daemon {
    child: Child,
    log: std::path::PathBuf,
}

impl Daemon {
    /// Its log, once that has `line`.
    fn wait_for(&self, line: &str) -> String {
        let log = || fs::read_to_string(&self.log).unwrap();
        eventually(line, || Some(log()).filter(|log| log.contains(line)))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// How it ended, and its log.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let status = eventually("flanneld ends", || self.child.try_wait().unwrap());
        (status, fs::read_to_string(&self.log).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn flanneld() -> Command {
    clean(Command::new(FLANNELD))
}

/// Without our own environment, in which there may be FLANNELD_* variables.
fn clean(mut command: Command) -> Command {
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// Runs what is to print one line and nothing else, and end with status 1.
fn mistake(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stdout, "", "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("flanneld: ") && stderr.ends_with('\n'), "{stderr}");
    stderr
}

/// The one line of `log` that says why flanneld ended, which is its last.
fn only_error(log: &str) -> &str {
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("flanneld: ")).collect();
    assert_eq!(errors.as_slice(), log.lines().last().as_slice(), "{log}");
    errors[0]
}

/// Waits until `condition` gives something, for ten seconds.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
