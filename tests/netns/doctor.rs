//! `flanneld doctor` and `flanneld ping`: each everyday fault is led to its cause by one command.

use std::fs;

use serde_json::Value;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::network::registry::Registry;
use twill::lab::{Lab, LabSpec};

use crate::harness::{
    FLANNEL_LAB, FLANNELD, etcdctl, eventually, overlay, spec, up, up_on_workers,
};

/// What `doctor` on `node` finds that is not well: the check and its text.
fn doctor(node: &Node) -> Vec<(String, String)> {
    let output = node.netns().tool(FLANNELD).words("doctor --json").output().unwrap();
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| {
        panic!("{}{}", output.stdout, output.stderr);
    });
    let findings = report["findings"].as_array().unwrap().iter();
    let bad: Vec<&Value> = findings.filter(|it| it["level"] != "ok").collect();
    assert!(bad.iter().all(|it| it["advice"].is_string()), "{bad:?}");
    let is_failure = bad.iter().any(|it| it["level"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(is_failure)), "{bad:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    bad.iter().map(|it| (text(&it["check"]), text(&it["text"]))).collect()
}

/// Runs `doctor` until it finds this. One run is enough, unless an answer came too late on a busy
/// machine.
#[track_caller]
fn finds(node: &Node, check: &str, text: &str) {
    let is_it = |(name, said): &(String, String)| name == check && said.contains(text);
    let runs = runs(node, |found| found.iter().any(is_it));
    assert!(runs.len() < RUNS, "no {check} with {text:?} in {runs:#?}");
}

#[track_caller]
fn finds_nothing(node: &Node) {
    let runs = runs(node, |found| found.is_empty());
    assert!(runs.len() < RUNS, "{runs:#?}");
}

const RUNS: usize = 4;

/// What the runs of `doctor` found before the one that found what it is to, [`RUNS`] at most.
fn runs(node: &Node, is_right: impl Fn(&[(String, String)]) -> bool) -> Vec<Vec<(String, String)>> {
    std::iter::repeat_with(|| doctor(node))
        .take(RUNS)
        .take_while(|found| !is_right(found))
        .collect()
}

fn etcd(lab: &Lab, args: &[&str]) -> String {
    let Registry::Etcd(etcd) = lab.registry() else { panic!("the lab has an etcd") };
    etcdctl(etcd, args)
}

#[test]
fn each_everyday_fault_of_the_host_is_led_to_its_cause() {
    let lab = up_on_workers("faults", 2);
    let [here, there] = lab.nodes() else { panic!("two nodes") };
    let (netns, addr) = (here.netns(), there.addr());
    finds_nothing(here);
    let iptables = |node: &Node, words: &str| {
        node.netns().tool("iptables").words(words).run().unwrap();
    };

    iptables(there, "-I INPUT -p udp --dport 8285 -j DROP");
    finds(here, "peers", &format!("{addr} answers ICMP echo, but nothing on UDP 8285"));
    finds(there, "port rules", "rule -A INPUT -p udp -m udp --dport 8285 -j DROP");
    iptables(there, "-F INPUT");

    netns.sysctl("net.ipv4.ip_forward=0").unwrap();
    finds(here, "forwarding", "net.ipv4.ip_forward is 0");
    finds(there, "peers", &format!("{} answers, and forwards nothing", here.addr()));
    netns.sysctl("net.ipv4.ip_forward=1").unwrap();

    iptables(here, "-I FORWARD -s 10.5.0.0/16 -j DROP");
    finds(here, "forward rules", "rule -A FORWARD -s 10.5.0.0/16 -j DROP");
    iptables(here, "-D FORWARD -s 10.5.0.0/16 -j DROP");

    netns.tool("nft").words("add table inet fw").run().unwrap();
    let chain = "add chain inet fw f { type filter hook forward priority -10; policy drop; }";
    netns.tool("nft").arg(chain).run().unwrap();
    finds(here, "forward rules", "policy drop (chain f of table inet fw)");
    netns.tool("nft").words("delete table inet fw").run().unwrap();

    there.netns().ip("link set eth0 mtu 1400").unwrap();
    finds(here, "peers", "bytes are lost on the way");
    finds(there, "device", "eth0 has MTU 1400, and the overlay's 1472 needs 1500");
    there.netns().ip("link set eth0 mtu 1500").unwrap();

    here.set_pod_mtu(1500).unwrap();
    finds(here, "bridge", "docker0 has MTU 1500, more than the 1472 of flannel0");
    here.set_pod_mtu(1472).unwrap();

    let bridge = overlay(here).env.bridge;
    netns.ip(&format!("addr del {bridge}/24 dev docker0")).unwrap();
    netns.ip("addr add 172.17.0.1/16 dev docker0").unwrap();
    finds(here, "bridge", "docker0 has 172.17.0.1/16, outside of this node's subnet");
    netns.ip("addr del 172.17.0.1/16 dev docker0").unwrap();
    finds(here, "bridge", "docker0 has no IPv4 address");
    netns.ip(&format!("addr add {bridge}/24 dev docker0")).unwrap();

    let pod = here.pods()[0].addr;
    netns.ip(&format!("addr add {pod}/24 dev docker0")).unwrap();
    let both = format!("docker0 of this host and the container at p1 both have {pod}");
    finds(here, "containers", &both);
    netns.ip(&format!("addr del {pod}/24 dev docker0")).unwrap();

    netns.ip("link set p1 down").unwrap();
    finds(here, "bridge", "p1, a port of docker0, is down");
    netns.ip("link set p1 up").unwrap();

    here.pods()[0].netns.ip("link set eth0 mtu 1500").unwrap();
    finds(here, "containers", &format!("container {pod} at p1 has MTU 1500"));
    here.pods()[0].netns.ip("link set eth0 mtu 1472").unwrap();

    here.pods()[0].netns.ip("route del default").unwrap();
    finds(here, "containers", &format!("container {pod} at p1 has no route to other nodes"));
    here.pods()[0].netns.ip(&format!("route add default via {bridge}")).unwrap();

    netns.ip(&format!("route add blackhole {addr}/32")).unwrap();
    finds(here, "peers", &format!("a blackhole route drops what is for {addr}"));
    netns.ip(&format!("route del blackhole {addr}/32")).unwrap();

    netns.ip("route add default dev eth0 table 100").unwrap();
    netns.ip(&format!("rule add from {pod} lookup 100 pref 500")).unwrap();
    finds(here, "pod routes", &format!("ip rule 500 sends packets from container {pod} to"));
    netns.ip("rule del pref 500").unwrap();

    netns.ip(&format!("neigh replace {addr} lladdr 02:00:00:00:00:99 dev eth0")).unwrap();
    finds(here, "peers", "a permanent neighbour entry sends what is for");
    netns.ip(&format!("neigh del {addr} dev eth0")).unwrap();

    let subnet = overlay(there).env.subnet;
    netns.ip(&format!("route add {subnet} dev eth0")).unwrap();
    finds(here, "routes", &format!("route {subnet} by eth0 lies in Network 10.5.0.0/16"));
    netns.ip(&format!("route del {subnet} dev eth0")).unwrap();
    eventually("the host to be well again", || doctor(here).is_empty());
}

#[test]
fn each_everyday_fault_of_the_registry_and_the_daemons_is_led_to_its_cause() {
    let mut lab = up("causes", 2);
    let addr = lab.nodes()[1].addr();
    let vxlan = r#"{"PublicIP":"192.168.64.99","BackendType":"vxlan"}"#;
    etcd(&lab, &["put", "/coreos.com/network/subnets/10.5.200.0-24", vxlan]);
    finds(&lab.nodes()[0], "backend", "lease 10.5.200.0/24 of 192.168.64.99 is for vxlan");
    etcd(&lab, &["del", "/coreos.com/network/subnets/10.5.200.0-24"]);

    // A second node with another prefix, which has a network of its own.
    let config = r#"{"Network":"10.5.0.0/16"}"#;
    etcd(&lab, &["put", "/atomic.io/network/config", config]);
    let there = &mut lab.nodes_mut()[1];
    assert!(there.terminate().unwrap().success());
    finds(
        &lab.nodes()[0],
        "peers",
        &format!("UDP 8285 is closed at {addr}: flanneld is not running"),
    );
    let there = &mut lab.nodes_mut()[1];
    let flanneld = Daemon::flanneld(FLANNELD);
    there.set_daemon(flanneld.clone().with("-etcd-prefix=/atomic.io/network"));
    there.start().unwrap();
    there.wait_ready().unwrap();
    let others = format!("network 10.5.0.0/16 with the leases of {addr}");
    finds(&lab.nodes()[0], "prefix", &others);
    finds(&lab.nodes()[1], "prefix", "prefix /coreos.com/network of the same etcd has network");

    // A clone: another host with our public IP.
    let there = &mut lab.nodes_mut()[1];
    assert!(there.terminate().unwrap().success());
    let public_ip = lab.nodes()[0].addr();
    let there = &mut lab.nodes_mut()[1];
    there.set_daemon(flanneld.with(&format!("-public-ip={public_ip}")));
    there.start().unwrap();
    eventually("one of the two to notice the other", || {
        let found: Vec<_> = lab.nodes().iter().flat_map(doctor).collect();
        found.iter().any(|(check, text)| check == "duplicates" && text.contains("public IP"))
    });
}

#[test]
fn running_daemon_warns_of_faults_of_its_host() {
    let mut lab = up("warns", 1);
    lab.nodes()[0].set_pod_mtu(1500).unwrap();
    let netns = lab.nodes()[0].netns();
    netns.sysctl("net.ipv4.ip_forward=0").unwrap();
    netns.tool("iptables").words("-I FORWARD -d 10.5.0.0/16 -j DROP").run().unwrap();
    // A start looks at once; later looks are ten seconds apart.
    let node = &mut lab.nodes_mut()[0];
    assert!(node.terminate().unwrap().success());
    node.start().unwrap();
    node.wait_ready().unwrap();
    let status = |words: &str| {
        let tool = lab.nodes()[0].netns().tool(FLANNELD).words("status").words(words);
        tool.output().unwrap().stdout
    };
    for text in [
        "net.ipv4.ip_forward is 0: this host forwards no packets of containers: sysctl -w",
        "rule -A FORWARD -d 10.5.0.0/16 -j DROP (table filter) drops",
        "docker0 has MTU 1500, more than the 1472 of flannel0",
    ] {
        eventually(text, || status("--json").contains(text));
    }
    assert!(status("").contains("net.ipv4.ip_forward is 0"));
    let netns = lab.nodes()[0].netns();
    netns.sysctl("net.ipv4.ip_forward=1").unwrap();
    eventually("the warning to end", || !status("").contains("net.ipv4.ip_forward is 0"));
}

#[test]
fn ping_asks_a_stock_node_and_says_what_is_the_matter_with_it() {
    let daemons = [("n2".to_owned(), Daemon::stock_emulator(FLANNEL_LAB))].into();
    let mut lab = Lab::up(LabSpec { daemons, ..spec("ping", 2) }).unwrap();
    let subnet = overlay(&lab.nodes()[1]).env.subnet;
    let ping = |lab: &Lab, words: &str| {
        let tool = lab.nodes()[0].netns().tool(FLANNELD).words("ping --json").words(words);
        let output = tool.output().unwrap();
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        (output.status.code(), report, output.stderr)
    };
    let (status, report, _) = ping(&lab, &format!("--mtu {subnet}"));
    assert_eq!((status, &report["ok"]), (Some(0), &true.into()), "{report:#}");
    assert_eq!(report["overlay_mtu"]["passed"], 1472, "{report:#}");
    assert_eq!(report["underlay_mtu"]["passed"], 1500, "{report:#}");
    assert_eq!(report["forwards"], true, "{report:#}");
    assert_eq!(report["public_ip"], lab.nodes()[1].addr().to_string());

    let pod = lab.nodes()[1].pods()[0].addr;
    let (status, report, _) = ping(&lab, &format!("--count=1 {pod}"));
    assert_eq!((status, &report["container"]["received"]), (Some(0), &1.into()), "{report:#}");

    lab.nodes_mut()[1].kill();
    let (status, report, _) = ping(&lab, &format!("--count=1 --timeout=3 {pod}"));
    let verdict = report["verdict"].as_str().unwrap();
    assert_eq!((status, &report["port"]["state"]), (Some(1), &"refused".into()), "{report:#}");
    assert!(verdict.ends_with("flanneld is not running there"), "{verdict}");

    let (status, _, line) = ping(&lab, "n2");
    assert_eq!((status, line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("neither an address nor a subnet"), "{line}");
}

#[test]
fn doctor_works_before_the_start() {
    let lab = Lab::create(spec("before", 1)).unwrap();
    let doctor = |flags: &str| {
        let tool = lab.nodes()[0].netns().tool(FLANNELD).words("doctor --").words(flags);
        let output = tool.output().unwrap();
        (output.status.code(), output.stdout + &output.stderr)
    };
    let flags = "-iface=eth0 -etcd-endpoints=http://192.168.64.2:2379";
    let (status, said) = doctor(flags);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("none yet: flanneld leases one at its start"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (status, said) = doctor("-iface=eth9 -etcd-endpoints=http://192.168.64.2:2399");
    assert_eq!(status, Some(1));
    assert!(said.contains("FAIL  registry") && said.contains("FAIL  interface"), "{said}");
    let (status, said) = doctor("-no-such-flag");
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
    let leftover = fs::read_dir(lab.nodes()[0].subnet_file().parent().unwrap()).unwrap();
    assert_eq!(leftover.count(), 0, "it changes nothing");
}
