//! No password, token or key is in anything that flanneld prints, writes or serves.

use std::fs;

use serde_json::Value;

use crate::flanneld;
use crate::host::{FLANNELD, Host, eventually, text};

/// Planted in settings and files. Parts of them must not be shown either.
const PASSWORD: &str = "pl4nted-passw0rd";
const OTHER_PASSWORD: &str = "0ther-planted";
const KEY: &str = "UExBTlRFRC1LRVk";

#[test]
fn password_and_token_of_etcd_are_in_no_output() {
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    for words in [
        &["user", "add", &format!("root:{PASSWORD}")][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        host.etcdctl(words);
    }
    // The most that is ever logged, libraries included.
    let common = ["-iface", "10.0.0.7", "-etcd-username", "root"];
    let health = ["-healthz-ip", "127.0.0.1", "-healthz-port", "8080", "-v", "9"];
    let given = ["-etcd-password", PASSWORD];
    let daemon = host.start("a", &[&common[..], &health, &given].concat());
    let log = daemon.wait_for("Watching for new subnet leases");
    let first = log.lines().next().unwrap();
    assert!(first.contains("flanneld v") && first.contains(" twill, commit "), "{first}");
    assert!(first.contains("--etcd-username=root"), "{first}");
    assert!(first.contains("--etcd-password=(hidden)"), "{first}");
    assert!(log.contains(" DEBUG "), "{log}");

    let mut outputs = Vec::new();
    for path in ["/healthz", "/readyz", "/stats", "/metrics", "/"] {
        let script = "exec 3<>/dev/tcp/127.0.0.1/8080 && \
                      printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $0 >&3 && exec cat <&3";
        let answer = host.output(&["bash", "-c", script, path]);
        assert!(answer.starts_with("HTTP/1"), "{answer}");
        outputs.push(answer);
    }
    let socket = host.dir.path().join("a.sock");
    let socket = socket.to_str().unwrap();
    for tool in [
        &["status"][..],
        &["status", "--json"],
        &["peers"],
        &["peers", "--json"],
        &["top", "--json"],
        &["drops", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["ping", "10.1.99.1"],
        &["bugreport", "-o", "-"],
    ] {
        let output = host.command(&[&[FLANNELD], tool, &["--socket", socket]].concat()).output();
        let output = output.unwrap();
        assert_ne!(output.status.code(), Some(3), "{}", text(&output.stderr));
        outputs.extend([text(&output.stdout), text(&output.stderr)]);
    }
    for as_json in ["-json=false", "-json=true"] {
        let etcd = ["-etcd-endpoints", "http://127.0.0.1:2379", "-config-check", as_json];
        let check = host.command(&[&[FLANNELD], &common[..], &given, &etcd].concat());
        let output = { check }.output().unwrap();
        assert!(text(&output.stdout).contains("10.1.0.0/16"), "{}", text(&output.stderr));
        outputs.extend([text(&output.stdout), text(&output.stderr)]);
    }
    let wrong = ["-etcd-password", OTHER_PASSWORD, "-v", "9"];
    let refused = host.start("b", &[&common[..], &wrong].concat());
    refused.wait_for("refuses user \"root\" or its password; see --etcd-username and");
    refused.stop();
    host.etcdctl(&["--user", &format!("root:{PASSWORD}"), "auth", "disable"]);
    daemon.stop();
    // Logs, state file, subnet.env.
    for file in fs::read_dir(host.dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            outputs.push(text(&fs::read(path).unwrap()));
        }
    }
    assert!(outputs.iter().any(|output| output.contains("FLANNEL_SUBNET=")));
    outputs.iter().for_each(|output| assert_clean(output));
}

#[test]
fn secrets_of_a_cloud_and_of_a_cluster_are_in_no_output() {
    let host = Host::new();
    let path = |name: &str| host.dir.path().join(name).display().to_string();
    let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"aws-vpc"}}"#;
    fs::write(path("registry.json"), format!(r#"{{"config":{config}}}"#)).unwrap();
    fs::write(path("net-conf.json"), r#"{"Network":"10.1.0.0/16"}"#).unwrap();
    let server = format!("http://root:{PASSWORD}@127.0.0.1:1");
    let kubeconfig = format!(
        "contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: \"{server}\"}}}}]\n\
         users: [{{name: u, user: {{token: \"{OTHER_PASSWORD}\"}}}}]\n"
    );
    fs::write(path("kubeconfig"), kubeconfig).unwrap();
    let registry = format!("--registry=file:{}", path("registry.json"));
    let (kubeconfig, config) = (path("kubeconfig"), path("net-conf.json"));
    let kube =
        ["--kube-subnet-mgr", "--kubeconfig-file", &kubeconfig, "--net-config-path", &config];
    for (name, args, said) in [
        ("aws", &[registry.as_str()][..], "cloud_route degraded: "),
        ("kube", &kube, "nodes cannot be followed: "),
    ] {
        let metadata = format!("AWS_EC2_METADATA_SERVICE_ENDPOINT={server}");
        let secret = format!("AWS_SECRET_ACCESS_KEY={PASSWORD}");
        let token = format!("AWS_SESSION_TOKEN={OTHER_PASSWORD}");
        let (key, node) = ("AWS_ACCESS_KEY_ID=AKIDPLANT", "NODE_NAME=n1");
        let variables = ["env", &metadata, &secret, &token, key, node, FLANNELD];
        let log = path(&format!("{name}.log"));
        let mut command = host.command(&[&variables, args].concat());
        command.args(["-iface", "10.0.0.7", "-v", "10", "-subnet-file"]);
        command.arg(path(&format!("{name}.env"))).stderr(fs::File::create(&log).unwrap());
        let mut daemon = command.spawn().unwrap();
        let log = eventually(said, || {
            Some(fs::read_to_string(&log).unwrap()).filter(|log| log.contains(said))
        });
        let mut outputs = vec![log];
        let socket = path(&format!("{name}.sock"));
        for tool in [&["status"][..], &["status", "--json"], &["bugreport", "-o", "-"]] {
            let tool = [&[FLANNELD], tool, &["--socket", &socket]].concat();
            let output = host.command(&tool).output().unwrap();
            assert_ne!(output.status.code(), Some(3), "{}", text(&output.stderr));
            outputs.push(text(&output.stdout) + &text(&output.stderr));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        outputs.iter().for_each(|output| assert_clean(output));
    }
}

#[test]
fn secrets_that_are_in_the_wrong_place_are_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    fs::write(&key, format!("-----BEGIN NOTHING-----\n{KEY}\n-----END NOTHING-----\n")).unwrap();
    let key = key.to_str().unwrap();
    let cert = dir.path().join("cert.pem");
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let cert = cert.to_str().unwrap();
    let url = format!("http://root:{PASSWORD}@127.0.0.1:2379");
    let password = format!("--etcd-password={PASSWORD}");
    for args in [
        &["-etcd-endpoints", &url][..],
        &["-etcd-endpoints", &url, "-config-check"],
        &["-registry", &url],
        &["-etcd-keyfile", key, "-etcd-certfile", cert, "-config-check"],
        &[&password],
        &[&password, "-no-such-flag"],
        &["-etcd-username=root", &password, "-v=x"],
    ] {
        let output = flanneld().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("flanneld: "), "{said}");
        assert_clean(&said);
    }
    let output = flanneld().env("FLANNELD_ETCD_PASSWORD", PASSWORD).output().unwrap();
    assert_clean(&text(&output.stderr));
}

#[test]
fn first_line_of_the_log_names_flags_and_variables_in_force() {
    let host = Host::with_etcd();
    let variables = ["env", "FLANNELD_IP_MASQ=true", "FLANNELD_ETCD_PASSWORD=pl4nted-passw0rd"];
    let mut command = host.command(&[&variables[..], &[FLANNELD, "-iface", "10.0.0.7"]].concat());
    command.arg("-subnet-file").arg(host.dir.path().join("x.env"));
    let log = host.dir.path().join("x.log");
    command.stderr(fs::File::create(&log).unwrap());
    let mut child = command.args(["-registry", "file:/nowhere/r.json"]).spawn().unwrap();
    let line = eventually("first line", || {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().next().filter(|_| log.contains('\n')).map(str::to_owned)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (iface, registry) = ("--iface=10.0.0.7", "--registry=file:/nowhere/r.json");
    let settings = [iface, registry, "--ip-masq=true", "--etcd-password=(hidden)"];
    assert!(settings.iter().all(|setting| line.contains(setting)), "{line}");
}

/// Nothing of what was planted, in clear or as base64 of `root:PASSWORD`, and no token.
fn assert_clean(output: &str) {
    // base64 of "root:pl4nted"
    let basic = "cm9vdDpwbDRudGVk";
    for secret in [PASSWORD, OTHER_PASSWORD, KEY, basic, "uthorization:", "token:"] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
    // In JSON of any kind, too.
    if let Ok(json) = serde_json::from_str::<Value>(output) {
        assert!(!json.to_string().contains("passw0rd"), "{json}");
    }
}
