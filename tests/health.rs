//! The health endpoint of a running daemon: changes of readiness, and metrics under traffic.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the harness is this target's own")]

mod host;
#[path = "health/promtool.rs"]
mod promtool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use host::{Daemon, Host, eventually, text};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use twill::dataplane::packet::builder::PacketBuilder;

/// Allows only the subnet 10.1.15.0/24.
const CONFIG: &str = r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.15.0","SubnetMax":"10.1.15.0"}"#;

#[test]
fn readiness_comes_and_goes_with_registry_and_rules() {
    let mut host = Host::new();
    let daemon = start(&host, &["-iptables-resync=1"]);
    eventually("the reason", || {
        let (status, body) = get(&host, "/readyz")?;
        let reason = reason(&body, "startup");
        assert!(status == 503 && !reason.is_empty(), "{status}: {body}");
        (reason == "waiting for the network config").then_some(())
    });
    host.start_etcd();
    host.put_config(CONFIG);
    let body = await_status(&host, 200);
    assert_eq!(body["message"], "flanneld is ready");
    daemon.wait_for("flannel is ready");
    let until = body["checks"]["lease"]["valid_until"].as_str().unwrap();
    assert!(until.ends_with('Z') && until > "2020", "{until}");

    host.stop_etcd();
    let body = eventually("a warning", || {
        let (status, body) = get(&host, "/readyz")?;
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        (!body["warnings"].as_array().unwrap().is_empty()).then_some(body)
    });
    assert_eq!((failing(&body), &body["ready"]), (vec!["registry"], &Value::Bool(true)), "{body}");
    assert_eq!(body["checks"]["registry"]["required"], false, "{body}");
    let warning = body["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("registry: ") && warning.ends_with("packets go on"), "{body}");
    let metrics = get(&host, "/metrics").unwrap().1;
    assert_eq!(value(&metrics, r#"flannel_check_ok{check="registry"}"#), Some(0.0), "{metrics}");
    assert_eq!(value(&metrics, "flannel_ready"), Some(1.0), "{metrics}");
    host.start_etcd();
    eventually("it answers again", || failing(&await_status(&host, 200)).is_empty().then_some(()));

    host.write_program("iptables-save", "#!/bin/sh\necho no tables today >&2; exit 3\n");
    let body = await_status(&host, 503);
    assert_eq!(failing(&body), ["rules"], "{body}");
    assert!(reason(&body, "rules").contains("iptables-save: no tables today"), "{body}");
    fs::remove_file(host.bin().join("iptables-save")).unwrap();
    await_status(&host, 200);
    assert_eq!(get(&host, "/healthz"), Some((200, "flanneld is running".to_owned())));
    let metrics = get(&host, "/metrics").unwrap().1;
    let reconnects = value(&metrics, "flannel_registry_reconnects_total");
    assert!(reconnects.is_some_and(|num| num >= 1.0), "{metrics}");

    daemon.stop();
    let daemon = start(&host, &["-readiness-needs-registry"]);
    await_status(&host, 200);
    host.stop_etcd();
    let body = await_status(&host, 503);
    assert_eq!((failing(&body), &body["warnings"]), (vec!["registry"], &serde_json::json!([])));
    daemon.stop();
}

#[test]
fn metrics_under_traffic_are_sound_and_are_what_docs_and_dashboard_say() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let daemon = start(&host, &["-ip-masq"]);
    daemon.wait_for("flannel is ready");
    let peer = r#"{"PublicIP":"10.0.0.8","PublicIPv6":null}"#;
    host.etcdctl(&["put", "/coreos.com/network/subnets/10.1.99.0-24", peer]);
    daemon.wait_for("Subnet added: 10.1.99.0/24");
    // A way that leads nowhere, but is not this host.
    host.output(&["ip", "route", "add", "10.0.0.8/32", "dev", "lo"]);
    let metrics = eventually("traffic is counted both ways", || {
        make_traffic(&host);
        let (_, metrics) = get(&host, "/metrics")?;
        let carried = |direction| {
            let sample =
                format!(r#"flannel_peer_bytes_total{{peer="10.0.0.8",direction="{direction}"}}"#);
            value(&metrics, &sample).is_some_and(|bytes| bytes > 0.0)
        };
        let is_dropped = |reason: &str| {
            let reason = format!("reason=\"{reason}\"");
            sum(&metrics, "flannel_dropped_packets_total", &reason) > 0.0
        };
        let is_heard = value(&metrics, r#"flannel_peer_last_heard_seconds{peer="10.0.0.8"}"#);
        let is_all = value(&metrics, "flannel_rule_writes_total") == Some(2.0)
            && carried("egress")
            && carried("ingress")
            && is_dropped("too_short")
            && is_heard.is_some();
        is_all.then_some(metrics)
    });
    let dropped = |reason: &str| {
        let sum = sum(&metrics, "flannel_dropped_packets_total", &format!("reason=\"{reason}\""));
        assert!(sum > 0.0, "no drop for {reason} in {metrics}");
    };
    ["too_short", "not_our_subnet"].into_iter().for_each(dropped);
    for direction in ["egress", "ingress"] {
        let direction = format!("direction=\"{direction}\"");
        let by_worker = sum(&metrics, "flannel_packets_total", &direction);
        let by_peer = sum(&metrics, "flannel_peer_packets_total", &direction);
        assert!(by_worker >= by_peer && by_peer > 0.0, "{metrics}");
    }
    assert_eq!(value(&metrics, "flannel_ready"), Some(1.0));

    promtool::check_metrics(&metrics);
    promtool::check_dashboard(&metrics);
    // The same with a backend whose packets the kernel carries, before it has any peer.
    let of_udp = ["worker=", "flannel_peers_silent", "flannel_fast_path", "peer=", "path="];
    let is_of_udp = |line: &str| of_udp.iter().any(|part| line.contains(part));
    let kernels: Vec<&str> = metrics.lines().filter(|line| !is_of_udp(line)).collect();
    promtool::check_dashboard(&(kernels.join("\n") + "\n"));
    let served = families(&metrics);
    assert_eq!(served, documented(), "docs/metrics.md");
    let names: BTreeSet<&str> = served.iter().map(|(name, _, _)| name.as_str()).collect();
    let dashboard = dashboard_names();
    assert!(dashboard.len() > 20, "{dashboard:?}");
    for name in &dashboard {
        assert!(names.contains(name.as_str()), "the dashboard asks for {name}");
    }
    let rules =
        fs::read_to_string(promtool::repository("dist/prometheus/flannel.rules.yml")).unwrap();
    let rules: Vec<&str> = rules.lines().filter(|line| line.contains("expr: ")).collect();
    for name in metric_names(rules) {
        assert!(names.contains(name.as_str()), "an alert asks for {name}");
    }
}

#[test]
fn subnet_file_is_kept_as_long_as_the_node_runs_and_hangs_nobody() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let (file, state) =
        (host.dir.path().join("subnet.env"), host.dir.path().join("subnet.state.json"));
    for fifo in [&file, &state] {
        host.output(&["mkfifo", fifo.to_str().unwrap()]);
    }
    let daemon = start(&host, &[]);
    await_status(&host, 200);
    let good = fs::read_to_string(&file).unwrap();
    assert!(good.contains("FLANNEL_SUBNET=10.1.15.1/24\n"), "{good}");
    fs::remove_file(&file).unwrap();
    eventually("it is back", || (fs::read_to_string(&file).ok()? == good).then_some(()));
    fs::write(&file, "").unwrap();
    eventually("it is whole", || (fs::read_to_string(&file).ok()? == good).then_some(()));
    daemon.wait_for("somebody changed");

    eventually("a directory is in its place", || {
        // flanneld may be faster.
        drop(fs::remove_file(&file));
        fs::create_dir(&file).ok()
    });
    let body = await_status(&host, 503);
    assert_eq!(failing(&body), ["subnet_file"], "{body}");
    fs::remove_dir(&file).unwrap();
    await_status(&host, 200);
    assert_eq!(fs::read_to_string(&file).unwrap(), good);
    daemon.stop();
}

#[test]
fn address_that_the_operator_named_is_waited_for() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let daemon = start(&host, &[]);
    await_status(&host, 200);
    host.output(&["ip", "addr", "del", "10.0.0.7/32", "dev", "lo"]);
    host.output(&["ip", "addr", "add", "10.0.0.9/32", "dev", "lo"]);
    let body = await_status(&host, 503);
    assert_eq!(failing(&body), ["underlay"], "{body}");
    // Longer than an address may be missing before another is used.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(failing(&await_status(&host, 503)), ["underlay"]);
    assert!(!daemon.log().contains("from now on"), "{}", daemon.log());
    host.output(&["ip", "addr", "add", "10.0.0.7/32", "dev", "lo"]);
    await_status(&host, 200);
    daemon.stop();
}

#[test]
fn subnet_file_is_written_when_a_full_disk_has_room_again() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let health = ["-iface", "10.0.0.7", "-healthz-ip", "127.0.0.1", "-healthz-port", "8080"];
    let daemon = host.start_on_full_disk("full/subnet", &health);
    daemon.wait_for("Failed to write subnet file");
    let body = await_status(&host, 503);
    assert_eq!(failing(&body), ["subnet_file"], "{body}");
    assert!(reason(&body, "subnet_file").contains("No space left"), "{body}");
    let disk = Path::new("/proc").join(daemon.pid().to_string()).join("root");
    let disk = disk.join(host.dir.path().strip_prefix("/").unwrap()).join("full");
    fs::remove_file(disk.join("fill")).unwrap();
    await_status(&host, 200);
    assert!(fs::read_to_string(disk.join("subnet.env")).unwrap().contains("10.1.15.1/24"));
    daemon.wait_for("flannel is ready");
}

#[test]
fn routes_that_shadow_a_peer_are_named_and_keep_the_node_from_being_ready() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let ip = |words: &str| {
        host.output(&[&["ip"][..], &words.split(' ').collect::<Vec<_>>()].concat());
    };
    for (subnet, public_ip) in [("10.1.99.0-24", "10.0.0.8"), ("10.1.98.0-24", "10.0.0.9")] {
        let value = format!(r#"{{"PublicIP":"{public_ip}"}}"#);
        host.etcdctl(&["put", &format!("/coreos.com/network/subnets/{subnet}"), &value]);
    }
    // What another backend left, before we start.
    ip("link add flannel.1 type bridge");
    ip("link set flannel.1 up");
    ip("route add 10.1.99.0/24 dev flannel.1");
    // Our own bridge, and a range that no peer has, are not reported.
    ip("link add cni0 type bridge");
    ip("addr add 10.1.15.1/24 dev cni0");
    ip("link set cni0 up");
    ip("route add 10.1.200.0/24 dev cni0");
    let daemon = start(&host, &[]);
    daemon.wait_for("flannel is ready");
    let shadowed = |warning: &str| {
        eventually(warning, || {
            let (status, body) = get(&host, "/readyz")?;
            let body: Value = serde_json::from_str(&body).unwrap();
            let is_reported = body["checks"]["peer_routes"]["reason"].as_str()?.contains(warning);
            (status == 503 && failing(&body) == ["peer_routes"] && is_reported).then_some(())
        });
        daemon.wait_for(&format!("WARN {warning}"));
    };
    shadowed("route 10.1.99.0/24 dev flannel.1 takes packets for peer subnet 10.1.99.0/24");
    ip("route del 10.1.99.0/24 dev flannel.1");
    await_status(&host, 200);

    for (cause, warning, cure) in [
        (
            "addr add 10.1.98.1/24 dev flannel.1",
            "route 10.1.98.0/24 dev flannel.1",
            "addr del 10.1.98.1/24 dev flannel.1",
        ),
        (
            "addr add 10.1.98.7/32 dev lo",
            "route 10.1.98.7/32 dev lo",
            "addr del 10.1.98.7/32 dev lo",
        ),
        (
            "route add blackhole 10.1.98.128/25",
            "route 10.1.98.128/25 without a link",
            "route del blackhole 10.1.98.128/25",
        ),
        // The kernel does not report routes that it removes with their link.
        (
            "route add 10.1.96.0/21 dev flannel.1",
            "route 10.1.96.0/21 dev flannel.1",
            "link del flannel.1",
        ),
    ] {
        ip(cause);
        shadowed(warning);
        ip(cure);
        await_status(&host, 200);
    }
    // A rule that leads to another table.
    ip("rule add to 10.1.0.0/16 lookup 100 pref 100");
    ip("route add 10.1.0.0/17 dev cni0 table 100");
    shadowed("route 10.1.0.0/17 dev cni0 of table 100 takes packets for peer subnet 10.1.98.0/24");
    ip("rule del pref 100");
    await_status(&host, 200);
    // A peer that joins with a subnet that no peer had.
    let key = "/coreos.com/network/subnets/10.1.200.0-24";
    host.etcdctl(&["put", key, r#"{"PublicIP":"10.0.0.10"}"#]);
    shadowed("route 10.1.200.0/24 dev cni0 takes packets for peer subnet 10.1.200.0/24");
    host.etcdctl(&["del", key]);
    await_status(&host, 200);
    assert_eq!(daemon.log().matches("takes packets for peer subnet").count(), 7, "once each");
    daemon.stop();
}

fn start(host: &Host, args: &[&str]) -> Daemon {
    let health = ["-iface", "10.0.0.7", "-healthz-ip", "127.0.0.1", "-healthz-port", "8080"];
    host.start("subnet", &[&health, args].concat())
}

/// Status and body; `None` while nobody listens.
fn get(host: &Host, path: &str) -> Option<(u16, String)> {
    let script = "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $0 >&3 && \
                  exec cat <&3";
    let output = host.command(&["bash", "-c", script, path]).output().unwrap();
    let response = text(&output.stdout);
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn await_status(host: &Host, status: u16) -> Value {
    eventually(&format!("/readyz answers {status}"), || {
        let (found, body) = get(host, "/readyz")?;
        (found == status).then(|| serde_json::from_str(&body).unwrap())
    })
}

fn failing(readiness: &Value) -> Vec<&str> {
    let checks = readiness["checks"].as_object().unwrap();
    checks.iter().filter(|(_, check)| check["ok"] == false).map(|(name, _)| name.as_str()).collect()
}

fn reason(readiness: impl ToString, check: &str) -> String {
    let readiness: Value = serde_json::from_str(&readiness.to_string()).unwrap();
    readiness["checks"][check]["reason"].as_str().unwrap().to_owned()
}

/// Pings the peer, and acts as the peer: sends one packet for us, one for another subnet, and one
/// that is not a packet.
fn make_traffic(host: &Host) {
    let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "10.1.99.7"];
    host.command(&ping).output().unwrap();
    let packet = |to| PacketBuilder::udp("10.1.99.7:7", to).payload(b"a message").build();
    let packets = [packet("10.1.15.0:7"), packet("10.1.16.7:7"), vec![0x45]];
    let hex = |packet: &Vec<u8>| packet.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = packets.iter().map(hex).collect();
    let mut spray =
        host.command(&[env!("CARGO_BIN_EXE_flannel-lab"), "netns-agent", "spray", "10.0.0.7:8285"]);
    let mut spray = spray.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    spray.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    assert!(spray.wait().unwrap().success());
}

/// The value of a sample without labels, or with exactly those given.
fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// The sum of all samples of a metric that have `label`.
fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let values = samples.filter(|line| line.contains(label)).map(|line| line.rsplit(' ').next());
    values.map(|value| value.unwrap().parse::<f64>().unwrap()).sum()
}

/// Name, type and labels of each metric.
type Families = BTreeSet<(String, String, BTreeSet<String>)>;

fn families(metrics: &str) -> Families {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, rest) in metrics.lines().filter_map(|line| line.split_once('{')) {
        let pairs = rest.split('}').next().unwrap().split(',');
        let names = pairs.map(|pair| pair.split('=').next().unwrap().to_owned());
        labels.entry(name).or_default().extend(names);
    }
    let labels_of = |name| labels.get(name).cloned().unwrap_or_default();
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned(), labels_of(name))).collect()
}

/// The table of docs/metrics.md.
fn documented() -> Families {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let markdown = fs::read_to_string(path).unwrap();
    let rows = markdown.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].to_owned(), labels)
    })
    .collect()
}

/// Every metric that the dashboard names.
fn dashboard_names() -> BTreeSet<String> {
    let dashboard = fs::read_to_string(promtool::repository("dist/grafana/flannel.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables.iter().filter_map(|variable| variable["query"]["query"].as_str());
    let queries = promtool::queries();
    metric_names(queries.iter().map(String::as_str).chain(variables))
}

/// Every metric that a query names.
fn metric_names<'q>(queries: impl IntoIterator<Item = &'q str>) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = queries.into_iter().flat_map(|query| query.split(move |c| !is_part(c)));
    let is_metric = |word: &&str| word.starts_with("flannel_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

#[test]
fn healthz_answers_in_a_crowd_of_silent_connections_that_come_again() {
    // A thousand connections need a thousand descriptors of this process.
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--nofile=4096:", "--pid", &pid]).status();
    assert!(raised.unwrap().success());
    let host = Host::new();
    // Below the ports of clients, of which there are a thousand.
    let first = 10_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let mut ports = first..32_000;
    let port = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    // In our own network, so that we can reach it; it waits for a config, and changes nothing.
    let mut daemon = host::clean(Command::new("unshare"));
    daemon.args(["--user", "--map-root-user", host::FLANNELD, "-healthz-ip", "127.0.0.1"]);
    daemon.args(["-healthz-port", &port.to_string(), "-registry=file:/nonexistent/registry.json"]);
    daemon.arg("-subnet-file").arg(host.dir.path().join("a.env"));
    let log = fs::File::create(host.dir.path().join("log")).unwrap();
    let mut daemon = daemon.stderr(log).spawn().unwrap();
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the endpoint listens", || TcpStream::connect(endpoint).ok());
    let connect = |source: u8| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 1, source], 0)).into()).unwrap();
        socket.connect_timeout(&endpoint.into(), Duration::from_secs(60)).unwrap();
        socket
    };
    let mut crowd: Vec<Socket> = (0..1000_u32).map(|n| connect((n % 5) as u8 + 1)).collect();
    for round in 0..100 {
        // The attacker reopens closed connections; some slowly send an endless request.
        for n in 0..10 {
            let socket = connect(n % 5 + 1);
            if n < 5 {
                (&socket).write_all(b"GET /healthz HTTP/1.1\r\nx: ").unwrap();
            }
            let len = crowd.len();
            crowd[(round * 10 + usize::from(n)) % len] = socket;
        }
        let mut probe = TcpStream::connect(endpoint).unwrap();
        probe.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{round}: {answer:?}");
        assert!(answer.ends_with("flanneld is running"), "{answer:?}");
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
