//! Kubernetes mode and `install-conf` from outside, as a manifest runs them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::flanneld;
use crate::host::{FLANNELD, Host, clean, eventually, masquerade, text};

const FLANNEL_LAB: &str = env!("CARGO_BIN_EXE_flannel-lab");
const URL: &str = "http://127.0.0.1:8080";

/// A host with the double of an API server.
struct Cluster {
    host: Host,
    server: Child,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Cluster {
    fn new() -> Self {
        let host = Host::new();
        let store = host.dir.path().join("nodes.json");
        let words = [FLANNEL_LAB, "netns-agent", "kube-api", "127.0.0.1:8080"];
        let mut server = host.command(&words);
        let server = server.arg(store).stderr(Stdio::null()).spawn().unwrap();
        let net_conf = r#"{"Network":"10.10.0.0/16","Backend":{"Type":"vxlan"}}"#;
        fs::write(host.dir.path().join("net-conf.json"), net_conf).unwrap();
        let cluster = Self { host, server };
        eventually("the API server", || cluster.ask("GET", "/double/requests", "").map(drop));
        cluster
    }

    fn path(&self, name: &str) -> String {
        self.host.dir.path().join(name).display().to_string()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let url = format!("{URL}{path}");
        let curl = ["curl", "-sS", "-f", "-X", method, "-d", body, &url];
        let Output { status, stdout, .. } = self.host.command(&curl).output().unwrap();
        status.success().then(|| serde_json::from_slice(&stdout).unwrap())
    }

    /// As flannel's own tests make one: with one annotation.
    fn add_node(&self, name: &str, cidr: &str, annotation: (&str, &str)) {
        let node = json!({
            "metadata": { "name": name, "annotations": { annotation.0: annotation.1 } },
            "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        });
        self.ask("POST", "/api/v1/nodes", &node.to_string()).unwrap();
    }

    fn public_ip(&self, node: &str) -> String {
        let node = self.ask("GET", &format!("/api/v1/nodes/{node}"), "").unwrap();
        let value = &node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"];
        value.as_str().unwrap_or_default().to_owned()
    }

    /// The flags of flannel's own tests, and where the config is.
    fn flags(&self) -> Vec<String> {
        let config = format!("--net-config-path={}", self.path("net-conf.json"));
        let flags = ["--kube-subnet-mgr", "--ip-masq", "--kubeconfig-file"];
        let mut flags = flags.map(str::to_owned).to_vec();
        flags.extend([self.path("kubeconfig"), format!("--kube-api-url={URL}"), config]);
        flags
    }
}

/// `e2e` and `functional` tests of flannel, for one node: subnet.env, annotations, overwrite.
#[test]
fn node_of_flannels_functional_test_gets_its_subnet_file_and_overwritten_address() {
    let cluster = Cluster::new();
    let kubeconfig = "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\n\
                      clusters: [{name: k, cluster: {server: 'http://192.0.2.1:1'}}]\n";
    fs::write(cluster.path("kubeconfig"), kubeconfig).unwrap();
    let overwrite = ("flannel.alpha.coreos.com/public-ip-overwrite", "172.18.0.2");
    cluster.add_node("flannel1", "10.10.1.0/24", overwrite);
    cluster.add_node("flannel2", "10.10.2.0/24", ("dummy", "value"));
    let flags = cluster.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--iface=10.0.0.7"]).collect();
    let daemon = cluster.host.start_with_env("a", &["NODE_NAME=flannel1"], &flags);
    let env = eventually("subnet.env", || fs::read_to_string(cluster.path("a.env")).ok());
    assert!(
        env.starts_with("FLANNEL_NETWORK=10.10.0.0/16\nFLANNEL_SUBNET=10.10.1.1/24\n"),
        "{env}"
    );
    assert!(env.ends_with("FLANNEL_IPMASQ=true\n"), "{env}");
    eventually("the address", || (cluster.public_ip("flannel1") == "172.18.0.2").then_some(()));
    assert_eq!(cluster.public_ip("flannel2"), "");
    let rules = masquerade("10.10.0.0/16", "10.10.1.0/24");
    let nat = || cluster.host.output(&["iptables", "-t", "nat", "-S"]);
    eventually(&rules, || nat().contains(&rules).then_some(()));
    daemon.stop();
    // As in a rolling update: the same subnet again.
    let daemon = cluster.host.start_with_env("b", &["NODE_NAME=flannel1"], &flags);
    let again = eventually("subnet.env", || fs::read_to_string(cluster.path("b.env")).ok());
    assert_eq!(again, env);
    daemon.stop();
}

#[test]
fn mistakes_of_kubernetes_mode_are_one_line_and_status_1() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("net-conf.json", r#"{"Network":"10.10.0.0/16"}"#);
    let bad = file("bad.json", r#"{"Network":"10.10.0.0/33"}"#);
    let kubeconfig = file("kubeconfig", "clusters: {");
    let url = "-kube-api-url=http://127.0.0.1:1".to_owned();
    let config = |path: &str| format!("-net-config-path={path}");
    let name = ("NODE_NAME", "n");
    for (variable, flags, line) in [
        (("X", ""), vec![url.clone()], "env variables POD_NAME and POD_NAMESPACE must be set"),
        (("EVENT_QUEUE_DEPTH", "x"), vec![url.clone()], "variable EVENT_QUEUE_DEPTH: \"x\" is not"),
        (name, vec![config(&good)], "no API server is named: give --kubeconfig-file or"),
        (name, vec![url.clone(), config(&bad)], "error parsing subnet config: "),
        (name, vec![url.clone(), config("/no/such")], "failed to read net conf: /no/such: No such"),
        (name, vec![config(&good), format!("-kubeconfig-file={kubeconfig}")], "is no kubeconfig: "),
        (name, vec!["-kube-api-url=https://".to_owned(), config(&good)], "is not the URL of the"),
        (name, vec!["-kube-annotation-prefix=org".to_owned()], "--kube-annotation-prefix"),
    ] {
        let mut command = flanneld();
        command.args(["-kube-subnet-mgr", "-subnet-file"]).arg(dir.path().join("subnet.env"));
        command.args(&flags).env("NODE_NAME", if variable.0 == "X" { "" } else { "n" });
        let output = in_namespaces(&command).env(variable.0, variable.1).output().unwrap();
        let said = text(&output.stderr);
        let errors: Vec<&str> =
            said.lines().filter(|line| line.starts_with("flanneld: ")).collect();
        assert_eq!((output.status.code(), errors.len()), (Some(1), 1), "{flags:?}: {said}");
        assert!(errors[0].contains(line), "{flags:?}: {said}");
    }
}

/// The same command where it has every capability.
fn in_namespaces(command: &Command) -> Command {
    let mut unshare = clean(Command::new("unshare"));
    unshare.args(["--user", "--map-root-user", "--net"]).arg(command.get_program());
    unshare.args(command.get_args());
    unshare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare
}

/// flanneld by that name, as it is in the image.
fn install_conf(dir: &TempDir) -> PathBuf {
    let program = dir.path().join("install-conf");
    symlink(FLANNELD, &program).unwrap();
    program
}

#[test]
fn install_conf_puts_the_cni_configuration_where_it_belongs() {
    let dir = TempDir::new().unwrap();
    let program = install_conf(&dir);
    let [from, to] = ["cni-conf.json", "net.d/10-flannel.conflist"].map(|it| dir.path().join(it));
    // As a config map is mounted: a link to a link.
    fs::create_dir(dir.path().join("..data")).unwrap();
    fs::write(dir.path().join("..data/cni-conf.json"), "{\"name\":\"cbr0\"}\n").unwrap();
    symlink("..data/cni-conf.json", &from).unwrap();
    for _ in 0..2 {
        let output = clean(Command::new(&program)).arg(&from).arg(&to).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        assert_eq!(fs::read_to_string(&to).unwrap(), "{\"name\":\"cbr0\"}\n");
    }
    let mode = fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the kubelet reads it");
}

#[test]
fn install_conf_says_in_one_line_what_it_cannot_do() {
    let dir = TempDir::new().unwrap();
    let program = install_conf(&dir);
    let file = |name: &str| dir.path().join(name).display().to_string();
    fs::write(file("conf"), "{}").unwrap();
    fs::write(file("binary"), [0xff, 0xfe]).unwrap();
    let (conf, to, directory) = (file("conf"), file("to"), dir.path().display().to_string());
    let usage = "give a file and where it is to be: install-conf SRC DST";
    let below = format!("{conf}/below/x");
    for (args, line) in [
        (vec![], usage),
        (vec![conf.as_str()], usage),
        (vec![&conf, &to, &to], usage),
        (vec!["--help"], usage),
        (vec!["/no/such", &to], "read /no/such: No such file"),
        (vec![&directory, &to], "it is not a regular file"),
        (vec!["", &to], "No such file"),
        (vec![&conf, &directory], "Is a directory"),
        (vec![&conf, &below], "Not a directory"),
        (vec![&conf, "/proc/nowhere/x"], "/proc/nowhere"),
        (vec![&file("binary"), &to], "is not UTF-8 text"),
    ] {
        let output = clean(Command::new(&program)).args(&args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
        assert!(said.contains(line), "{args:?}: {said}");
    }
    assert!(!dir.path().join("to").exists());
}
