//! `dist/kubernetes`: the manifests say what flanneld needs, and no more.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/kubernetes").join(name);
    fs::read_to_string(path).unwrap()
}

/// The objects of the manifest.
fn objects() -> Vec<Value> {
    let text = read("kube-flannel.yml");
    // The first part is a comment.
    text.split("\n---\n").skip(1).map(|object| serde_saphyr::from_str(object).unwrap()).collect()
}

fn object(kind: &str) -> Value {
    objects().into_iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn manifest_has_all_objects_in_one_namespace() {
    let kinds: Vec<Value> = objects().iter().map(|object| object["kind"].clone()).collect();
    let expected = [
        "Namespace",
        "ClusterRole",
        "ClusterRoleBinding",
        "ServiceAccount",
        "ConfigMap",
        "DaemonSet",
    ];
    assert_eq!(kinds, expected);
    for kind in ["ServiceAccount", "ConfigMap", "DaemonSet"] {
        assert_eq!(object(kind)["metadata"]["namespace"], "kube-flannel", "{kind}");
    }
}

#[test]
fn role_has_the_verbs_of_our_requests_and_no_other() {
    let rules = json!([
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
    ]);
    assert_eq!(object("ClusterRole")["rules"], rules);
}

#[test]
fn config_map_holds_a_network_config_and_a_cni_configuration() {
    let data = &object("ConfigMap")["data"];
    let text = data["net-conf.json"].as_str().unwrap();
    let network = twill::control::config::network::parse(text, None).unwrap();
    assert_eq!(network.v4.network.to_string(), "10.244.0.0/16");
    let cni: Value = serde_json::from_str(data["cni-conf.json"].as_str().unwrap()).unwrap();
    assert_eq!((&cni["name"], &cni["plugins"][0]["type"]), (&json!("cbr0"), &json!("flannel")));
}

#[test]
fn daemon_is_started_with_flags_that_it_has() {
    let pod = &object("DaemonSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().into());
    let env = [("NODE_NAME".into(), "nodea".into()), ("EVENT_QUEUE_DEPTH".into(), "5000".into())];
    let invocation = twill::control::cli::parse(args, env).unwrap();
    let twill::control::cli::Invocation::Run(config) = invocation else {
        panic!("it would not run")
    };
    assert_eq!(config.warnings, [""; 0]);
    let port = config.healthz.unwrap().port();
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], port, "{probe}");
    }
    let security = &container["securityContext"];
    assert_eq!(security["privileged"], false);
    let capabilities = json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] });
    assert_eq!(security["capabilities"], capabilities);
    let init = pod["initContainers"].as_array().unwrap();
    assert_eq!(init[1]["command"], json!(["/opt/bin/install-conf"]));
}

#[test]
fn kustomizations_and_their_patches_read() {
    for name in ["kustomization.yml", "udp/kustomization.yml"] {
        let kustomization: Value = serde_saphyr::from_str(&read(name)).unwrap();
        assert_eq!(kustomization["kind"], "Kustomization", "{name}");
        for patch in kustomization["patches"].as_array().into_iter().flatten() {
            let patched: Value = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
            assert_eq!(patched["kind"], patch["target"]["kind"]);
            let target = object(patched["kind"].as_str().unwrap());
            assert_eq!(target["metadata"]["name"], patch["target"]["name"]);
        }
    }
}
